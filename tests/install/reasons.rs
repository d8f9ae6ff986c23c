//! docs/reasons.md explains each reason that a condition, an event or a metric can have.

use std::{collections::BTreeSet, fs, path::Path};

use regex::Regex;

use crate::support::repository;

/// The sources without their tests.
fn sources(folder: &Path, into: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().and_then(|name| name.to_str()).expect("UTF-8");
        if name.ends_with("tests") {
            continue;
        }
        if path.is_dir() {
            sources(&path, into);
        } else {
            let text = fs::read_to_string(&path).expect("a source");
            into.push(text.split("#[cfg(test)]").next().unwrap_or_default().to_owned());
        }
    }
}

/// The constants of `api::reasons`, what functions named `reason` answer, and the names of events.
fn used() -> BTreeSet<String> {
    let mut texts = Vec::new();
    sources(&repository("src"), &mut texts);
    let literal = Regex::new(r#""([A-Z][A-Za-z]+)""#).expect("an expression");
    let parts = [
        Regex::new(r"(?s)\npub mod reasons \{.*?\n\}"),
        Regex::new(r"(?s)fn reason\((?:&?self)\) -> &'static str \{.*?\n    \}"),
        Regex::new(r#"\.(?:normal|warning|alarm)\([^";]*"[A-Z][A-Za-z]+""#),
    ];
    let mut used = BTreeSet::new();
    for part in parts {
        let part = part.expect("an expression");
        let found: Vec<&str> = texts.iter().flat_map(|text| part.find_iter(text)).map(|found| found.as_str()).collect();
        assert!(!found.is_empty(), "nothing looks like {part}");
        let names = found.iter().flat_map(|text| literal.captures_iter(text)).map(|name| name[1].to_owned());
        used.extend(names);
    }
    let functions = texts.iter().map(|text| text.matches("fn reason(").count()).sum::<usize>();
    assert_eq!(functions, 5, "a function named reason is new, or gone: is it found above?");
    used
}

/// The names in the first cells of the tables.
fn explained() -> BTreeSet<String> {
    let page = fs::read_to_string(repository("docs/reasons.md")).expect("the page");
    let cells = page.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    cells.flat_map(|cell| cell.split(", ")).map(|name| name.trim_matches('`').to_owned()).collect()
}

#[test]
fn every_reason_is_explained_and_there_is_no_other() {
    let (used, explained) = (used(), explained());
    for known in ["KubernetesForbidden", "ServerUnavailable", "Inconsistent", "SecretNotFound", "Orphaned", "Narrowed"]
    {
        assert!(used.contains(known), "{known} is not found in the sources: {used:?}");
    }
    let missing: Vec<_> = used.difference(&explained).collect();
    assert!(missing.is_empty(), "docs/reasons.md does not explain {missing:?}");
    let surplus: Vec<_> = explained.difference(&used).collect();
    assert!(surplus.is_empty(), "docs/reasons.md explains what there is not: {surplus:?}");
}
