//! The metrics as they are documented, and the alerts, the runbook and the dashboard that are made of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use serde_json::{Value, json};

use crate::{
    fixtures::*,
    support::{authorization_server::AuthorizationServer, process::Folder, repository},
    tools::{Helm, manifests, run, tool},
};

fn read(path: &str) -> String {
    fs::read_to_string(repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Type and labels by name, from the table of docs/metrics.md.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let page = read("docs/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `dcr_operator_"));
    let rows = rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let name = format!("dcr_operator_{}", cells[0].trim_end_matches('`'));
        let labels = cells[2].split(',').map(|label| label.trim().trim_matches('`').to_owned());
        (name, (cells[1].to_owned(), labels.filter(|label| !label.is_empty()).collect()))
    });
    rows.collect()
}

/// Type and labels by name, from the endpoint. Names are those of the samples: `_total` and `_info` are part of them.
fn served(page: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut found: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    for line in page.lines() {
        if let Some((name, type_)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let suffix = match type_ {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            found.insert(format!("{name}{suffix}"), (type_.to_owned(), BTreeSet::new()));
        } else if !line.starts_with('#') {
            let sample = line.split([' ', '{']).next().expect("a name");
            let base =
                ["_bucket", "_sum", "_count"].iter().find_map(|suffix| sample.strip_suffix(suffix)).unwrap_or(sample);
            let name = if found.contains_key(sample) { sample } else { base };
            let (type_, labels) = found.get_mut(name).unwrap_or_else(|| panic!("{line} has no type"));
            let text = line.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(labels, _)| labels);
            let names = text.split("\",").filter_map(|label| label.split_once('=')).map(|(name, _)| name.to_owned());
            labels.extend(names.filter(|name| !(type_ == "histogram" && name == "le")));
        }
    }
    found
}

#[tokio::test]
async fn the_page_of_metrics_is_the_endpoint() {
    let home = Home::without_operator("metrics").await;
    let operator = home.operator(&[]).await;
    home.profile(AuthorizationServer::shared().issuer()).await;
    home.apply(&json!({
        "apiVersion": "dcr-operator.dev/v1alpha1", "kind": "DcrPolicy", "metadata": {"name": "web"},
        "spec": {"allowedScopes": ["openid", "email"]},
    }))
    .await;
    home.apply(&json!({
        "apiVersion": "dcr-operator.dev/v1alpha1", "kind": "DcrPolicy", "metadata": {"name": "closed"},
        "spec": {"profileRef": {"name": "none"}, "registrationModes": []},
    }))
    .await;
    home.until_condition(POLICIES, "closed", ["Ready", "False", "Contradictory"]).await;
    home.register("shop").await;
    let mut lost = home.oauth_client("lost");
    lost["spec"]["profileRef"] = json!({"name": "chosen-by-anybody"});
    home.apply(&lost).await;
    home.until_condition(CLIENTS, "lost", ["Accepted", "False", "ProfileNotFound"]).await;
    let counted = |policy: &Value| policy["status"]["clients"]["matching"].as_i64() > Some(0);
    let policy = home.until("counted", POLICIES, "web", counted).await;
    let matching = &policy["status"]["clients"]["matching"];

    let page = operator.metrics().await;
    let (documented, served) = (documented(), served(&page));
    assert_eq!(documented.keys().collect::<Vec<_>>(), served.keys().collect::<Vec<_>>());
    for (name, (type_, labels)) in &served {
        let (documented_type, documented_labels) = &documented[name];
        assert_eq!(type_, documented_type, "{name}");
        // What has not happened has no labels.
        assert!(
            labels.is_empty() || labels == documented_labels,
            "{name}: {labels:?}, documented: {documented_labels:?}"
        );
    }
    let labelled = served.values().filter(|(_, labels)| !labels.is_empty()).count();
    assert!(labelled >= 12, "most metrics should have values in this test:\n{page}");

    // What it counts, and that nobody but the platform team chooses a label's value.
    let namespace = &home.name;
    for line in [
        format!(
            "dcr_operator_clients{{profile_namespace=\"{namespace}\",profile=\"token-service\",condition=\"Ready\",status=\"True\",reason=\"Ready\"}} 1"
        ),
        "dcr_operator_clients{profile_namespace=\"\",profile=\"\",condition=\"Accepted\",status=\"False\",reason=\"ProfileNotFound\"} 1".to_owned(),
        format!("dcr_operator_profile_ready{{profile_namespace=\"{namespace}\",profile=\"token-service\"}} 1"),
        format!("dcr_operator_policy_clients{{policy_namespace=\"{namespace}\",policy=\"web\",verdict=\"matching\"}} {matching}"),
        "dcr_operator_backlog{kind=\"OAuthClient\"} 0".to_owned(),
        "dcr_operator_leader 1".to_owned(),
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in:\n{page}");
    }
    let stalled = "dcr_operator_reconciles_total{kind=\"DcrPolicy\",outcome=\"Stalled\",reason=\"Contradictory\"}";
    assert!(page.contains(stalled), "{stalled} is not in:\n{page}");
    for kind in ["OAuthClient", "TokenProfile", "DcrPolicy"] {
        for name in ["reconciles_under_way", "reconcile_duration_seconds_count"] {
            assert!(page.contains(&format!("dcr_operator_{name}{{kind=\"{kind}\"}}")), "{name} of {kind} in:\n{page}");
        }
    }
    assert!(!page.contains("chosen-by-anybody"), "{page}");
}

/// The names of metrics in an expression.
fn names(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with("dcr_operator_"));
    names.map(|name| name.strip_suffix("_bucket").unwrap_or(name).to_owned()).collect()
}

fn alerts() -> Vec<Value> {
    let rule = &manifests(&read("deploy/components/monitoring/prometheusrule.yaml"))[0];
    let groups = rule["spec"]["groups"].as_array().expect("groups");
    groups.iter().flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect()
}

#[test]
fn every_alert_has_its_section_in_the_runbook_and_asks_for_metrics_that_there_are() {
    let (documented, runbook) = (documented(), read("docs/runbook.md"));
    let sections: BTreeSet<&str> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let mut alerted = BTreeSet::new();
    let alerts = alerts();
    for alert in &alerts {
        let name = alert["alert"].as_str().expect("a name");
        alerted.insert(name);
        let used = names(alert["expr"].as_str().expect("an expression"));
        assert!(!used.is_empty() && used.iter().all(|name| documented.contains_key(name)), "{name}: {used:?}");
        let url = alert["annotations"]["runbook_url"].as_str().expect("a runbook_url");
        assert_eq!(url, format!("docs/runbook.md#{}", name.to_lowercase()));
    }
    assert_eq!(sections, alerted, "sections of docs/runbook.md and alerts");
}

#[test]
fn the_dashboard_asks_for_metrics_that_there_are_and_shows_them_all() {
    let dashboard: Value = serde_json::from_str(&read("deploy/components/monitoring/dashboard.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().expect("targets"));
    let expressions: Vec<&str> = targets.map(|target| target["expr"].as_str().expect("an expression")).collect();
    let used: BTreeSet<String> = expressions.iter().flat_map(|expression| names(expression)).collect();
    assert_eq!(used, documented().into_keys().collect());
    // promtool reads rules, so each expression becomes one.
    let rules: Vec<Value> = expressions
        .iter()
        .enumerate()
        .map(|(index, expression)| json!({"record": format!("panel:{index}"), "expr": expression.replace("$__rate_interval", "5m")}))
        .collect();
    let rules = json!({"groups": [{"name": "dashboard", "rules": rules}]});
    let folder = Folder::new("dashboard");
    let mut promtool = tool("promtool");
    promtool.args(["check", "rules"]).arg(folder.write("rules.yaml", rules.to_string()));
    run(promtool, "").unwrap_or_else(|error| panic!("{error}"));
}

/// Runs promtool's unit tests of this content, beside the rules of this file.
fn promtool_tests(rules: &Value, tests: &str) {
    let folder = Folder::new("promtool");
    folder.write("rules.yaml", rules.to_string());
    let mut promtool = tool("promtool");
    promtool.args(["test", "rules"]).arg(folder.write("tests.yaml", tests));
    run(promtool, "").unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_table_of_the_dashboard_has_a_row_for_each_thing_that_ends() {
    let dashboard: Value = serde_json::from_str(&read("deploy/components/monitoring/dashboard.json")).expect("JSON");
    let tables = dashboard["panels"].as_array().expect("panels").iter().filter(|panel| panel["type"] == "table");
    let mut ends = None;
    for table in tables {
        let title = table["title"].as_str().expect("a title");
        let targets = table["targets"].as_array().expect("targets");
        assert_eq!(targets.len(), 1, "{title}: Grafana shows one frame at a time");
        ends = ends.or_else(|| title.starts_with("What ends").then(|| targets[0]["expr"].clone()));
    }
    let profile = "profile_namespace=\"identity\",profile=\"token-service\"";
    let series = |name: &str, value: i64| {
        let name = format!("dcr_operator_{name}_timestamp_seconds");
        json!({"series": format!("{name}{{{profile},pod=\"a\"}}"), "values": format!("{value}x20")})
    };
    let row = |what: &str, value: i64| json!({"labels": format!("{{{profile},what=\"{what}\"}}"), "value": value});
    let test = json!({
        "interval": "1m",
        "input_series": [
            series("client_secret_expiry", 1600), series("initial_access_token_expiry", 2600),
            series("registration_access_token_expiry", 3600), series("oldest_deletion", 100),
        ],
        "promql_expr_test": [{"expr": ends.expect("a table of what ends"), "eval_time": "10m", "exp_samples": [
            row("client secret, until it ends", 1000), row("initial access token, until it ends", 2000),
            row("registration access token, until it ends", 3000), row("deletion, since it was asked for", 500),
        ]}],
    });
    let tests = json!({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [test]});
    promtool_tests(&json!({"groups": []}), &tests.to_string());
}

#[test]
fn the_alerts_of_a_release_are_about_its_own_namespace() {
    let values = "metrics: {prometheusRule: {enabled: true}}";
    let objects = Helm::offline().template("dcr-operator", "operators", values);
    let rule = objects.into_iter().find(|object| object["kind"] == "PrometheusRule").expect("a PrometheusRule");
    let alerts: Vec<&Value> =
        rule.pointer("/spec/groups/0/rules").and_then(Value::as_array).expect("rules").iter().collect();
    for alert in &alerts {
        let expression = alert["expr"].as_str().expect("an expression");
        let selectors = expression.matches("dcr_operator_").count();
        assert_eq!(expression.matches("{namespace=\"operators\"").count(), selectors, "{expression}");
    }
    let leader = |namespace: &str, values: &str| json!({"series": format!("dcr_operator_leader{{namespace=\"{namespace}\"}}"), "values": values});
    let absent = alerts.iter().find(|alert| alert["alert"] == "DcrOperatorAbsent").expect("an alert");
    let fires = json!([{
        "exp_labels": {"severity": "critical", "namespace": "operators"}, "exp_annotations": absent["annotations"],
    }]);
    let test = |series: Value, expected: &Value| {
        json!({"interval": "1m", "input_series": [series], "alert_rule_test": [
            {"eval_time": "30m", "alertname": "DcrOperatorAbsent", "exp_alerts": expected},
        ]})
    };
    let tests = json!({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [
        test(leader("operators", "1x40"), &json!([])),
        test(leader("others", "1x40"), &fires),
    ]});
    promtool_tests(&rule["spec"], &tests.to_string());
}

#[test]
fn the_alerts_fire_when_they_should_and_not_before() {
    let rule = &manifests(&read("deploy/components/monitoring/prometheusrule.yaml"))[0];
    let folder = Folder::new("alerts");
    let rules = folder.write("rules.yaml", rule["spec"].to_string());
    let mut promtool = tool("promtool");
    promtool.args(["check", "rules", "--lint=all", "--lint-fatal"]).arg(&rules);
    run(promtool, "").unwrap_or_else(|error| panic!("{error}"));
    let tests = read("tests/install/alerts_test.yaml");
    promtool_tests(&rule["spec"], &tests);
    for alert in alerts() {
        let name = alert["alert"].as_str().expect("a name");
        assert!(tests.contains(&format!("alertname: {name}\n")), "{name} has no test");
    }
}
