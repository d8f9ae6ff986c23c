//! What the chart renders, and what it refuses.

use serde_json::{Value, json};

use crate::{
    fixtures::assert_says,
    support::{control_plane::ControlPlane, repository},
    tools::{Helm, by_id, chart, id, install_crds_of_others, manifests},
};

/// Values that people choose, and that every rendering test goes through.
pub const MATRIX: [(&str, &str); 9] = [
    ("defaults", ""),
    ("one replica", "{replicaCount: 1, leaderElection: {enabled: false}}"),
    ("two namespaces", "{namespaces: [shop, bank], rbac: {rolloutRestart: true}}"),
    ("restarts", "rbac: {rolloutRestart: true, aggregateRoles: false}"),
    ("no admission policy", "admissionPolicy: {enabled: false}"),
    (
        "monitoring",
        "metrics: {service: {enabled: true}, serviceMonitor: {enabled: true, labels: {release: prometheus}}, \
         podMonitor: {enabled: true, endpoint: {honorLabels: true}}, prometheusRule: {enabled: true, alertLabels: {team: \
         identity}}, dashboard: {enabled: true}}",
    ),
    (
        "everything of the pod",
        "{commonLabels: {team: identity}, podAnnotations: {a: b}, podLabels: {c: d}, deploymentAnnotations: {e: f}, \
         image: {registry: registry.example.com, digest: 'sha256:0000000000000000000000000000000000000000000000000000000000000000'}, \
         imagePullSecrets: [{name: pull}], global: {imagePullSecrets: [{name: shared}]}, caBundle: {configMap: roots}, \
         proxy: {httpsProxy: 'http://proxy.example.com:3128', noProxy: 10.0.0.0/8}, extraArgs: ['--workers=4'], \
         extraEnv: [{name: X, value: z}], extraVolumes: [{name: tmp, emptyDir: {}}], \
         extraVolumeMounts: [{name: tmp, mountPath: /tmp}], affinity: {nodeAffinity: {}}, \
         tolerations: [{operator: Exists}], priorityClassName: system-cluster-critical, runtimeClassName: gvisor, \
         schedulerName: other, hostAliases: [{ip: 10.0.0.1, hostnames: [idp]}], dnsPolicy: Default, \
         dnsConfig: {options: [{name: ndots, value: '1'}]}, \
         extraObjects: [{apiVersion: v1, kind: ConfigMap, metadata: {name: '{{ .Release.Name }}-extra'}}]}",
    ),
    ("network policy", "networkPolicy: {enabled: true}"),
    (
        "an account of one's own",
        "{serviceAccount: {create: false, name: mine}, rbac: {create: false}, crds: {enabled: false}}",
    ),
];

#[test]
fn helm_lint_finds_nothing() {
    let helm = Helm::offline();
    for (_, values) in MATRIX {
        helm.ok(&["lint", "--strict", &chart()], values);
    }
}

#[tokio::test]
async fn the_api_server_takes_every_object_as_it_is_rendered() {
    let (plane, helm) = (ControlPlane::shared(), Helm::offline());
    install_crds_of_others(plane).await;
    let namespace = plane.namespace("chart").await;
    for (name, values) in MATRIX {
        // The namespaces of the Roles must exist; of names, any will do.
        let values = values.replace("[shop, bank]", &format!("[{namespace}, default]"));
        let objects = helm.template("dcr-operator", &namespace, &values);
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        let args = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename", "-"];
        let applied = plane.kubectl_ok(&args, Some(&list)).await;
        assert_eq!(applied.lines().count(), objects.len(), "{name}: {applied}");
    }
}

#[tokio::test]
async fn the_pods_are_allowed_where_pod_security_is_restricted() {
    let (plane, helm) = (ControlPlane::shared(), Helm::offline());
    let namespace = plane.namespace("restricted").await;
    let label = ["label", "namespace", &namespace, "pod-security.kubernetes.io/enforce=restricted"];
    plane.kubectl_ok(&label, None).await;
    for (name, values) in MATRIX {
        let deployment =
            helm.template("dcr-operator", &namespace, values).into_iter().find(|object| object["kind"] == "Deployment");
        let template = deployment.expect("a Deployment")["spec"]["template"].clone();
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": template["spec"]});
        pod["metadata"] = json!({"name": "pod", "namespace": namespace});
        // What is not there is no matter of security.
        for missing in ["serviceAccountName", "priorityClassName", "runtimeClassName"] {
            pod["spec"].as_object_mut().expect("a spec").remove(missing);
        }
        let args = ["create", "--dry-run=server", "--validate=strict", "--filename", "-"];
        plane.kubectl_ok(&args, Some(&pod.to_string())).await;
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true, "{name}");
        assert!(container["resources"]["limits"]["memory"].is_string(), "{name}");
    }
}

#[test]
fn a_release_for_some_namespaces_has_nothing_that_is_cluster_wide() {
    let objects =
        Helm::offline().template("dcr-operator", "operators", "{namespaces: [shop, bank], crds: {enabled: false}}");
    let ids: Vec<String> = by_id(objects.clone()).into_keys().collect();
    assert_eq!(
        ids,
        [
            "Deployment operators/dcr-operator",
            "PodDisruptionBudget operators/dcr-operator",
            "Role bank/dcr-operator",
            "Role operators/dcr-operator-lease",
            "Role shop/dcr-operator",
            "RoleBinding bank/dcr-operator",
            "RoleBinding operators/dcr-operator-lease",
            "RoleBinding shop/dcr-operator",
            "ServiceAccount operators/dcr-operator",
        ]
    );
    let role = &by_id(objects)["Role shop/dcr-operator"];
    let namespaces: Vec<&Value> = role["rules"]
        .as_array()
        .expect("rules")
        .iter()
        .filter(|rule| rule["resources"] == json!(["namespaces"]))
        .collect();
    assert_eq!(namespaces, [&json!({"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"]})]);
}

#[test]
fn no_rule_has_a_wildcard_or_lets_the_operator_raise_its_rights() {
    for (name, values) in MATRIX {
        for object in Helm::offline().template("dcr-operator", "operators", values) {
            for rule in object["rules"].as_array().into_iter().flatten() {
                let text = rule.to_string();
                for forbidden in ["\"*\"", "escalate", "\"bind\"", "impersonate"] {
                    assert!(!text.contains(forbidden), "{name}: {}: {text}", id(&object));
                }
            }
            assert_ne!(object["roleRef"]["name"], "cluster-admin", "{name}");
        }
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_the_way_out() {
    let helm = Helm::offline();
    for (values, words) in [
        ("replicaCounts: 3", vec!["replicaCounts", "not allowed"]),
        ("metrics: {podMonitor: {enable: true}}", vec!["/metrics/podMonitor", "enable"]),
        ("log: {format: xml}", vec!["/log/format", "json"]),
        ("namespaces: [Shop]", vec!["/namespaces/0"]),
        ("namespaces: [shop, shop]", vec!["/namespaces"]),
        ("deletionTimeout: soon", vec!["/deletionTimeout", "soon"]),
        (
            "leaderElection: {enabled: false}",
            vec!["replicaCount is 2", "leaderElection.enabled: true or replicaCount: 1"],
        ),
        ("caBundle: {configMap: a, secret: b}", vec!["caBundle.configMap", "caBundle.secret", "leave one empty"]),
        ("podDisruptionBudget: {minAvailable: 1}", vec!["set maxUnavailable: null"]),
        (
            "metrics: {prometheusRule: {enabled: true, disabled: [DcrOperatorOrphans]}}",
            vec!["\"DcrOperatorOrphans\", which is no alert", "DcrOperatorOrphan,"],
        ),
        (
            "tokenProfiles: {token-service: {spec: {issuer: https://login.example.com}}}",
            vec!["need the CRDs on the cluster", "--api-versions dcr-operator.dev/v1alpha1"],
        ),
        (
            "tokenProfiles: {token-service: {issuer: https://login.example.com}}",
            vec!["/tokenProfiles/token-service", "issuer"],
        ),
    ] {
        assert_says(&helm.refusal(values), &words);
    }
}

/// Without what Helm adds, and what may differ: who manages it, and its labels.
fn compared(mut object: Value) -> Value {
    for member in ["labels", "annotations"] {
        object["metadata"].as_object_mut().expect("metadata").remove(member);
    }
    object
}

/// Without what makes the chart's alerts those of one namespace.
fn for_any_namespace(mut object: Value) -> Value {
    let groups = object.pointer_mut("/spec/groups").and_then(Value::as_array_mut);
    for group in groups.into_iter().flatten() {
        for alert in group["rules"].as_array_mut().expect("rules") {
            let expression = alert["expr"].as_str().expect("an expression");
            let plain =
                expression.replace("{namespace=\"dcr-operator\"}", "").replace("namespace=\"dcr-operator\",", "");
            alert["expr"] = json!(plain);
            alert["labels"].as_object_mut().expect("labels").remove("namespace");
        }
    }
    object
}

pub async fn kustomize(components: &[&str]) -> String {
    let folder = crate::support::process::Folder::new("kustomize");
    // kustomize takes no absolute paths.
    let up = "../".repeat(folder.path().components().count());
    let here = |path: &str| format!("{up}{}", repository(path).strip_prefix("/").expect("an absolute path").display());
    let components: Vec<String> = components.iter().map(|name| here(&format!("deploy/components/{name}"))).collect();
    let kustomization = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        "resources": [here("deploy/base")], "components": components,
    });
    folder.write("kustomization.yaml", kustomization.to_string());
    let path = folder.path().to_str().expect("a UTF-8 path");
    let args = ["kustomize", "--load-restrictor=LoadRestrictionsNone", path];
    ControlPlane::shared().kubectl_ok(&args, None).await
}

#[tokio::test]
async fn kustomize_renders_the_same_objects() {
    for (components, values) in [
        (vec![], ""),
        (vec!["network-policy"], "networkPolicy: {enabled: true}"),
        (vec!["rollout-restart"], "rbac: {rolloutRestart: true}"),
        (
            vec!["monitoring"],
            "metrics: {podMonitor: {enabled: true}, prometheusRule: {enabled: true}, dashboard: {enabled: true}}",
        ),
    ] {
        let mut plain = by_id(manifests(&kustomize(&components).await));
        // Helm has --create-namespace.
        assert!(plain.remove("Namespace dcr-operator").is_some());
        let rendered = by_id(Helm::offline().template("dcr-operator", "dcr-operator", values));
        assert_eq!(plain.keys().collect::<Vec<_>>(), rendered.keys().collect::<Vec<_>>(), "{components:?}");
        for ((id, plain), rendered) in plain.into_iter().zip(rendered.into_values()) {
            assert_eq!(compared(plain), compared(for_any_namespace(rendered)), "{id} with {components:?}");
        }
    }
}
