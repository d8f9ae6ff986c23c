//! What is made from something else, and committed. `make chart` writes it anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::PathBuf,
};

use serde_json::Value;

use crate::{
    support::repository,
    tools::{chart, manifests},
};

/// Compares a file with what it should be, or writes it if UPDATE_CHART is set.
fn expect(path: &PathBuf, content: &str) {
    if std::env::var_os("UPDATE_CHART").is_some() {
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, content).expect("a file");
    }
    let committed = fs::read_to_string(path).unwrap_or_default();
    assert!(committed == content, "{} is not up to date: run `make chart`", path.display());
}

fn read(path: &PathBuf) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files that the chart has from elsewhere in the repository: a chart can read only what is in its folder.
fn copies() -> BTreeMap<PathBuf, PathBuf> {
    let files = repository("charts/dcr-operator/files");
    let yaml = |folder: &str| {
        let entries = fs::read_dir(repository(folder)).expect("a folder");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect::<Vec<_>>()
    };
    let name = |path: &PathBuf| path.file_name().expect("a name").to_str().expect("UTF-8").to_owned();
    let mut copies = BTreeMap::new();
    for path in yaml("crds") {
        copies.insert(files.join("crds").join(name(&path)), path);
    }
    // What the chart has templates of its own for.
    let templates = ["namespace.yaml", "serviceaccount.yaml", "deployment.yaml", "poddisruptionbudget.yaml"];
    for path in yaml("deploy/base").into_iter().filter(|path| !templates.contains(&name(path).as_str())) {
        let folder = if name(&path) == "rbac.yaml" { files.clone() } else { files.join("cluster") };
        copies.insert(folder.join(name(&path)), path);
    }
    for (copy, source) in [
        ("rollout-restart.yaml", "rollout-restart/rbac.yaml"),
        ("prometheusrule.yaml", "monitoring/prometheusrule.yaml"),
        ("dashboard.json", "monitoring/dashboard.json"),
    ] {
        copies.insert(files.join(copy), repository("deploy/components").join(source));
    }
    copies
}

#[test]
fn the_chart_has_the_crds_the_rules_and_the_alerts_of_the_plain_manifests() {
    for (copy, source) in copies() {
        expect(&copy, &read(&source));
    }
    let known: BTreeSet<PathBuf> = copies().into_keys().collect();
    let files = repository("charts/dcr-operator/files");
    for folder in [files.clone(), files.join("crds"), files.join("cluster")] {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            assert!(path.is_dir() || known.contains(&path), "{} is no copy of anything", path.display());
        }
    }
}

#[test]
fn the_chart_has_the_version_of_the_crate() {
    let chart = &manifests(&read(&PathBuf::from(chart()).join("Chart.yaml")))[0];
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!((chart["version"].as_str(), chart["appVersion"].as_str()), (Some(version), Some(version)));
    let deployment = &manifests(&read(&repository("deploy/base/deployment.yaml")))[0];
    let image = &deployment["spec"]["template"]["spec"]["containers"][0]["image"];
    assert_eq!(image, &format!("dcr-operator:{version}"));
}

/// One value of the chart.
struct Documented {
    path: String,
    default: String,
    text: String,
}

/// The values whose comment begins with two dashes, and the paths of all leaves without one.
fn documented(values: &str) -> (Vec<Documented>, Vec<String>) {
    let parsed = &manifests(values)[0];
    let (mut found, mut bare) = (Vec::new(), Vec::new());
    let mut text: Option<String> = None;
    // Names of the maps that the line is in, with their indentation.
    let mut within: Vec<(usize, String)> = Vec::new();
    let mut skip_deeper_than: Option<usize> = None;
    for line in values.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        if let Some(comment) = line.strip_prefix("# -- ") {
            text = Some(comment.to_owned());
            continue;
        }
        let Some((key, _)) = line.split_once(':').filter(|_| !line.starts_with(['#', '-'])) else { continue };
        if skip_deeper_than.is_some_and(|documented| indent > documented) {
            continue;
        }
        skip_deeper_than = None;
        within.retain(|(depth, _)| *depth < indent);
        within.push((indent, key.to_owned()));
        let keys: Vec<&str> = within.iter().map(|(_, key)| key.as_str()).collect();
        let value = parsed.pointer(&format!("/{}", keys.join("/"))).expect("a value");
        match text.take() {
            Some(text) => {
                skip_deeper_than = Some(indent);
                found.push(Documented { path: keys.join("."), default: value.to_string(), text });
            }
            None if value.as_object().is_some_and(|members| !members.is_empty()) => {}
            None => bare.push(keys.join(".")),
        }
    }
    (found, bare)
}

#[test]
fn every_value_is_documented_and_the_readme_has_them_all() {
    let values = read(&PathBuf::from(chart()).join("values.yaml"));
    let (documented, bare) = documented(&values);
    assert!(bare.is_empty(), "without a comment `# -- …`: {bare:?}");
    let mut readme = String::from(
        "# dcr-operator: Helm chart\n\n<!-- Generated by `make chart` from values.yaml. -->\n\n\
         Installs the operator: see docs/install.md for how to install, upgrade and uninstall, docs/metrics.md for what\n\
         it measures, and docs/runbook.md for its alerts.\n\n\
         ```\nhelm install dcr-operator charts/dcr-operator --namespace dcr-operator --create-namespace\n```\n\n\
         `values.schema.json` refuses values that are not in this table.\n\n\
         | value | default | meaning |\n|---|---|---|\n",
    );
    for Documented { path, default, text } in documented {
        let default = if default.len() > 60 { "see values.yaml".to_owned() } else { format!("`{default}`") };
        writeln!(readme, "| `{path}` | {default} | {} |", text.replace('|', "\\|")).expect("a string");
    }
    expect(&PathBuf::from(chart()).join("README.md"), &readme);
}

/// The paths of the leaves of values or of their schema.
fn leaves(value: &Value, members: fn(&Value) -> Option<&Value>, path: &str, into: &mut BTreeSet<String>) {
    match members(value).and_then(Value::as_object).filter(|members| !members.is_empty()) {
        Some(found) => {
            for (name, member) in found {
                leaves(member, members, &format!("{path}.{name}"), into);
            }
        }
        None => {
            into.insert(path.to_owned());
        }
    }
}

#[test]
fn the_schema_knows_exactly_the_values_that_there_are() {
    let values = &manifests(&read(&PathBuf::from(chart()).join("values.yaml")))[0];
    let schema: Value = serde_json::from_str(&read(&PathBuf::from(chart()).join("values.schema.json"))).expect("JSON");
    let (mut of_schema, mut of_values) = (BTreeSet::new(), BTreeSet::new());
    leaves(&schema, |schema| schema.get("properties"), "", &mut of_schema);
    leaves(values, |value| Some(value), "", &mut of_values);
    for leaf in &of_schema {
        let free = of_values.iter().any(|value| value == leaf || value.starts_with(&format!("{leaf}.")));
        // What is inside bootstrap objects is not in the values.
        assert!(free, "{leaf} is in the schema, but not in the values");
    }
    for value in &of_values {
        let known = of_schema.iter().any(|leaf| value == leaf || value.starts_with(&format!("{leaf}.")));
        assert!(known, "{value} is in the values, but not in the schema");
    }
}
