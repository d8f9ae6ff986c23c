//! Every object that is rendered or committed, checked by kubeconform against the schemas of a running API server.

use std::{collections::BTreeSet, fs};

use serde_json::{Value, json};

use crate::{
    chart::{MATRIX, kustomize},
    fixtures::{WAIT, assert_says},
    support::{
        control_plane::ControlPlane,
        process::{Folder, wait_until},
        repository,
    },
    tools::{Helm, chart, id, install_crds_of_others, manifests, run, tool},
};

/// Its CRD is in no Go module.
const SKIPPED: &str = "helm.toolkit.fluxcd.io/v2/HelmRelease";

/// Refuses members that the schema does not name, as the API server itself does with strict field validation.
fn close(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else { return };
    if schema.contains_key("properties") && !schema.contains_key("x-kubernetes-preserve-unknown-fields") {
        schema.entry("additionalProperties").or_insert(json!(false));
    }
    // OpenAPI 3.0 has a word of its own for it.
    if schema.get("nullable") == Some(&json!(true))
        && let Some(type_) = schema.get("type").cloned()
    {
        schema.insert("type".to_owned(), json!([type_, "null"]));
    }
    for name in ["items", "additionalProperties"] {
        schema.get_mut(name).into_iter().for_each(close);
    }
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    properties.into_iter().flat_map(|properties| properties.values_mut()).for_each(close);
}

/// The schemas that a text needs, in files where kubeconform looks for them.
async fn schemas(plane: &ControlPlane, yaml: &str) -> Folder {
    let folder = Folder::new("schemas");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let kinds = manifests(yaml).into_iter().map(|object| (text(&object["apiVersion"]), text(&object["kind"])));
    for (api_version, kind) in kinds.collect::<BTreeSet<_>>() {
        if format!("{api_version}/{kind}") == SKIPPED {
            continue;
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        let path = format!("/openapi/v3/{}/{api_version}", if group.is_empty() { "api" } else { "apis" });
        let gvk = json!({"group": group, "version": version, "kind": kind});
        // The API server publishes a new CRD a moment after it has established it.
        let (mut document, name) = wait_until(&format!("{path} has {kind}"), WAIT, async || {
            let output = plane.kubectl_output(&["get", "--raw", &path], None).await;
            let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let schemas = document["components"]["schemas"].as_object().cloned().unwrap_or_default();
            let named = |schema: &Value| schema["x-kubernetes-group-version-kind"] == json!([gvk]);
            let name = schemas.into_iter().find(|(_, schema)| named(schema)).map(|(name, _)| name);
            name.map(|name| (document, name)).ok_or("not yet")
        })
        .await;
        document["components"]["schemas"].as_object_mut().expect("schemas").values_mut().for_each(close);
        let schema = json!({"$ref": format!("#/components/schemas/{name}"), "components": document["components"]});
        let file = format!("{}.json", kind.to_lowercase());
        fs::create_dir_all(folder.join(&api_version)).expect("a folder");
        fs::write(folder.join(&api_version).join(file), schema.to_string()).expect("a schema");
    }
    folder
}

/// What kubeconform says of a text: that all is valid, or what is not.
fn kubeconform(schemas: &Folder, yaml: &str) -> Result<String, String> {
    let mut command = tool("kubeconform");
    // `.Group` is what is before the slash, or else the version.
    let location =
        "{{if ne .Group .ResourceAPIVersion}}{{.Group}}/{{end}}{{.ResourceAPIVersion}}/{{.ResourceKind}}.json";
    let location = format!("{}/{location}", schemas.path().display());
    command.args(["-strict", "-summary", "-schema-location", &location, "-skip", SKIPPED, "-"]);
    run(command, yaml)
}

/// The chart with the values that people choose, the kustomization, the examples, and the CRDs.
async fn everything() -> Vec<(String, String)> {
    let (helm, chart) = (Helm::offline(), chart());
    let mut texts = Vec::new();
    let mut render = |name: &str, args: &[&str], values: &str| {
        let args = [&["template", "dcr-operator", &chart, "--namespace", "operators"], args].concat();
        texts.push((format!("the chart, {name}"), helm.ok(&args, values)));
    };
    for (name, values) in MATRIX {
        render(name, &[], values);
    }
    let bootstrap = "{tokenProfiles: {token-service: {spec: {issuer: https://login.example.com}}}, \
                     dcrPolicies: {web: {spec: {allowedScopes: [openid]}}}}";
    render("profiles and policies", &["--api-versions", "dcr-operator.dev/v1alpha1"], bootstrap);
    let components = ["monitoring", "network-policy", "rollout-restart"];
    texts.push(("the kustomization".to_owned(), kustomize(&components).await));
    for folder in ["crds", "deploy/argocd", "deploy/flux", "deploy/profiles", "deploy/samples"] {
        for entry in fs::read_dir(repository(folder)).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                texts.push((path.display().to_string(), fs::read_to_string(&path).expect("a file")));
            }
        }
    }
    texts
}

#[tokio::test]
async fn kubeconform_finds_nothing_in_what_is_rendered_and_committed() {
    let plane = ControlPlane::shared();
    install_crds_of_others(plane).await;
    let texts = everything().await;
    let together: Vec<&str> = texts.iter().map(|(_, yaml)| yaml.as_str()).collect();
    let schemas = schemas(plane, &together.join("\n---\n")).await;
    for (name, yaml) in &texts {
        let said = kubeconform(&schemas, yaml).unwrap_or_else(|error| panic!("{name}: {error}"));
        let skipped = manifests(yaml).iter().filter(|object| object["kind"] == "HelmRelease").count();
        let valid = format!("Valid: {}, Invalid: 0, Errors: 0, Skipped: {skipped}", manifests(yaml).len() - skipped);
        assert_says(&said, &[&valid]);
    }

    // It is as strict as it should be: one member too many, anywhere, is found.
    for (kind, pointer) in [
        ("Deployment", "/spec/template/spec/containers/0"),
        ("PodMonitor", "/spec/podMetricsEndpoints/0"),
        ("CustomResourceDefinition", "/spec/versions/0/schema/openAPIV3Schema"),
        ("OAuthClient", "/spec/clientMetadata"),
        ("TokenProfile", "/spec"),
        ("DcrPolicy", ""),
        ("Application", "/spec/syncPolicy"),
        ("Kustomization", "/spec/sourceRef"),
    ] {
        let mut objects = texts.iter().flat_map(|(_, yaml)| manifests(yaml));
        let mut object = objects.find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"));
        let at = object.pointer_mut(pointer).and_then(Value::as_object_mut);
        at.unwrap_or_else(|| panic!("{kind} has no {pointer}")).insert("surplus".to_owned(), json!(true));
        let error = kubeconform(&schemas, &object.to_string()).expect_err(&id(&object));
        assert_says(&error, &[kind, "surplus"]);
    }
    let twice = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: b}\ndata: {a: c}\n";
    assert_says(&kubeconform(&schemas, twice).expect_err("twice"), &["data", "already"]);
}
