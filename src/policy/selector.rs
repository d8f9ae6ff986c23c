//! Label selectors, as Kubernetes defines them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Whether labels match the selector; an empty selector matches everything. An operator that does not exist matches
/// nothing: what can't be understood must not open a door.
#[must_use]
pub fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|requirement| {
            let value = labels.get(&requirement.key);
            let listed = value.is_some_and(|value| requirement.values.iter().flatten().any(|other| other == value));
            match requirement.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    use super::*;

    #[test]
    fn selectors_match_as_in_kubernetes() {
        let labels = BTreeMap::from([("team".to_owned(), "shop".to_owned())]);
        let requirement = |operator: &str, key: &str, values: &[&str]| LabelSelector {
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: key.into(),
                operator: operator.into(),
                values: Some(values.iter().map(ToString::to_string).collect()),
            }]),
            match_labels: None,
        };
        let equal = |value: &str| LabelSelector {
            match_labels: Some(BTreeMap::from([("team".to_owned(), value.to_owned())])),
            match_expressions: None,
        };
        for (selector, expected) in [
            (LabelSelector::default(), true),
            (equal("shop"), true),
            (equal("bank"), false),
            (requirement("In", "team", &["bank", "shop"]), true),
            (requirement("In", "team", &["bank"]), false),
            (requirement("In", "tier", &["bank"]), false),
            (requirement("NotIn", "team", &["shop"]), false),
            (requirement("NotIn", "tier", &["shop"]), true),
            (requirement("Exists", "team", &[]), true),
            (requirement("Exists", "tier", &[]), false),
            (requirement("DoesNotExist", "tier", &[]), true),
            (requirement("DoesNotExist", "team", &[]), false),
            (requirement("Near", "team", &["shop"]), false),
        ] {
            assert_eq!(matches(&selector, &labels), expected, "{selector:?}");
        }
    }
}
