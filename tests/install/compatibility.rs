//! What is stored on clusters must fit the CRDs of the next version: they are compared with those of the last release.

use std::{fs, process::Command};

use serde_json::{Value, json};

use crate::{
    support::{control_plane::project_crds, repository},
    tools::manifests,
};

/// What an object that fits `old` may violate in `new`, as sentences.
fn violations(path: &str, old: &Value, new: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut differ = |what: &str| found.push(format!("{path}: {what}"));
    for word in ["type", "format", "pattern", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-int-or-string"] {
        // No pattern any more is no narrower one.
        if old[word] != new[word] && !(word == "pattern" && new[word].is_null()) {
            differ(&format!("{word} was {}, is {}", old[word], new[word]));
        }
    }
    for (word, narrower) in [
        ("maxLength", -1.0),
        ("maxItems", -1.0),
        ("maxProperties", -1.0),
        ("maximum", -1.0),
        ("minLength", 1.0),
        ("minItems", 1.0),
        ("minProperties", 1.0),
        ("minimum", 1.0),
    ] {
        let unbounded = if narrower < 0.0 { f64::INFINITY } else { f64::NEG_INFINITY };
        let bound = |schema: &Value| schema[word].as_f64().unwrap_or(unbounded);
        if (bound(new) - bound(old)) * narrower > 0.0 {
            differ(&format!("{word} was {}, is {}", old[word], new[word]));
        }
    }
    let list = |schema: &Value, word: &str| schema[word].as_array().cloned().unwrap_or_default();
    if !new["enum"].is_null() {
        let allowed = list(new, "enum");
        if old["enum"].is_null() {
            differ("has an enum now");
        }
        for value in list(old, "enum").iter().filter(|value| !allowed.contains(value)) {
            differ(&format!("{value} is no longer allowed"));
        }
    }
    for name in list(new, "required").iter().filter(|name| !list(old, "required").contains(name)) {
        let default = &new["properties"][name.as_str().unwrap_or_default()]["default"];
        if default.is_null() {
            differ(&format!("{name} is required now"));
        }
    }
    for (name, old) in old["properties"].as_object().into_iter().flatten() {
        match new["properties"].get(name) {
            None => found.push(format!("{path}.{name}: is gone")),
            Some(new) => found.extend(violations(&format!("{path}.{name}"), old, new)),
        }
    }
    for member in ["items", "additionalProperties"] {
        if old[member].is_object() {
            found.extend(violations(&format!("{path}[]"), &old[member], &new[member]));
        }
    }
    found
}

#[test]
fn a_narrower_schema_is_noticed() {
    let old = json!({"type": "object", "required": ["a"], "properties": {
        "a": {"type": "string", "maxLength": 10, "enum": ["x", "y"]},
        "b": {"type": "array", "items": {"type": "integer", "minimum": 0}},
    }});
    assert!(violations("spec", &old, &old).is_empty());
    let change = |pointer: &str, value: Value| {
        let mut new = old.clone();
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
        let parent = new.pointer_mut(parent).and_then(Value::as_object_mut).expect("a member");
        if value.is_null() {
            parent.remove(name)
        } else {
            parent.insert(name.to_owned(), value)
        };
        violations("spec", &old, &new).join("; ")
    };
    for (pointer, value, expected) in [
        ("/properties/b", Value::Null, "spec.b: is gone"),
        ("/properties/a/type", json!("integer"), "spec.a: type was \"string\", is \"integer\""),
        ("/properties/a/maxLength", json!(9), "spec.a: maxLength was 10, is 9"),
        ("/properties/a/maxLength", Value::Null, ""),
        ("/properties/a/enum", json!(["x"]), "spec.a: \"y\" is no longer allowed"),
        ("/properties/a/enum", json!(["x", "y", "z"]), ""),
        ("/properties/a/pattern", json!("^x$"), "spec.a: pattern was null, is \"^x$\""),
        ("/properties/b/items/minimum", json!(1), "spec.b[]: minimum was 0, is 1"),
        ("/properties/b/maxItems", json!(3), "spec.b: maxItems was null, is 3"),
        ("/required", json!(["a", "b"]), "spec: \"b\" is required now"),
        ("/properties/c", json!({"type": "string"}), ""),
    ] {
        assert_eq!(change(pointer, value), expected, "{pointer}");
    }
}

fn git(args: &[&str]) -> String {
    let output = Command::new("git").arg("-C").arg(repository("")).args(args).output().expect("git starts");
    assert!(output.status.success(), "git {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn schema(crd: &str) -> Value {
    manifests(crd)[0]["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

#[test]
fn what_the_last_release_stored_fits_the_crds_of_this_version() {
    // Before the first release there is nothing on anybody's cluster.
    let tags = git(&["tag", "--list", "v*", "--sort=-version:refname"]);
    let Some(tag) = tags.lines().next() else { return };
    for path in project_crds() {
        let name = format!("crds/{}", path.file_name().expect("a name").to_str().expect("UTF-8"));
        let (old, new) = (git(&["show", &format!("{tag}:{name}")]), fs::read_to_string(&path).expect("a CRD"));
        let found = violations(&name, &schema(&old), &schema(&new));
        assert!(found.is_empty(), "narrower than in {tag}:\n{}", found.join("\n"));
    }
}
