//! What the derive macros cannot say about the CRDs.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::json;

use super::{DcrPolicy, OAuthClient, TokenProfile};

/// The three CustomResourceDefinitions, as they are committed under `crds/`.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    [TokenProfile::crd(), DcrPolicy::crd(), OAuthClient::crd()].map(with_status_default).map(with_flowing_text).into()
}

/// An object that nobody has looked at yet must be "in progress" to kstatus: it compares `observedGeneration` with the
/// generation, and takes an object without a status for ready.
fn with_status_default(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let status = version
            .schema
            .as_mut()
            .and_then(|schema| schema.open_api_v3_schema.as_mut())
            .and_then(|root| root.properties.as_mut())
            .and_then(|properties| properties.get_mut("status"));
        if let Some(status) = status {
            status.default = Some(JSON(json!({"observedGeneration": -1})));
        }
    }
    crd
}

/// Descriptions are broken into lines for readers of the source; `kubectl explain` breaks them for the terminal.
fn with_flowing_text(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    fn flow(schema: &mut JSONSchemaProps) {
        if let Some(description) = &mut schema.description {
            let paragraphs: Vec<String> = description.split("\n\n").map(|text| text.replace('\n', " ")).collect();
            *description = paragraphs.join("\n\n");
        }
        schema.properties.iter_mut().flat_map(BTreeMap::values_mut).for_each(flow);
        if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
            flow(items);
        }
        if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
            flow(values);
        }
    }
    for version in &mut crd.spec.versions {
        if let Some(root) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            flow(root);
        }
    }
    crd
}

/// Any JSON value.
pub(super) fn free_form(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"x-kubernetes-preserve-unknown-fields": true})
}

/// A JSON object with any members.
pub(super) fn free_form_map(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "x-kubernetes-preserve-unknown-fields": true,
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// `make crds` sets the variable, and the files are written instead of compared.
    #[test]
    fn crds_are_committed() {
        for crd in crds() {
            let path =
                Path::new(env!("CARGO_MANIFEST_DIR")).join("crds").join(format!("{}.yaml", crd.spec.names.plural));
            let yaml = serde_saphyr::to_string(&crd).unwrap();
            if std::env::var_os("UPDATE_CRDS").is_some() {
                fs::write(&path, yaml).unwrap();
                continue;
            }
            let committed = fs::read_to_string(&path).unwrap_or_default();
            assert!(committed == yaml, "{} is not what the types say: run `make crds`", path.display());
        }
    }

    fn walk(path: &str, schema: &JSONSchemaProps, visit: &mut impl FnMut(&str, &JSONSchemaProps)) {
        visit(path, schema);
        for (name, property) in schema.properties.iter().flatten() {
            walk(&format!("{path}.{name}"), property, visit);
        }
        if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
            walk(&format!("{path}[]"), items, visit);
        }
    }

    fn each_field(part: &str, mut visit: impl FnMut(&str, &JSONSchemaProps)) {
        for crd in crds() {
            let root = crd.spec.versions[0].schema.clone().unwrap().open_api_v3_schema.unwrap();
            let properties = root.properties.unwrap();
            walk(&format!("{}.{part}", crd.spec.names.singular.unwrap()), &properties[part], &mut visit);
        }
    }

    #[test]
    fn every_field_of_the_specs_explains_itself() {
        each_field("spec", |path, schema| {
            let described = schema.description.as_ref().is_some_and(|text| !text.trim().is_empty());
            // Items are explained by their list; the selectors are Kubernetes' own.
            assert!(described || path.ends_with("[]"), "{path} has no description");
        });
    }

    #[test]
    fn no_description_has_a_link_that_only_rustdoc_follows() {
        for part in ["spec", "status"] {
            each_field(part, |path, schema| {
                let description = schema.description.as_deref().unwrap_or_default();
                assert!(!description.contains("[`"), "{path}: {description}");
            });
        }
    }

    #[test]
    fn every_list_and_text_that_people_write_is_bounded() {
        each_field("spec", |path, schema| {
            if path.contains("elector") {
                return; // Kubernetes' own schema.
            }
            match schema.type_.as_deref() {
                Some("string") => {
                    assert!(schema.max_length.is_some() || schema.enum_.is_some(), "{path} has no maxLength");
                }
                Some("array") => {
                    assert!(schema.max_items.is_some(), "{path} has no maxItems");
                    assert!(schema.x_kubernetes_list_type.is_some(), "{path} has no list type");
                }
                _ => {}
            }
        });
    }

    #[test]
    fn an_object_that_nobody_has_looked_at_is_in_progress() {
        for crd in crds() {
            let root = crd.spec.versions[0].schema.clone().unwrap().open_api_v3_schema.unwrap();
            let default = root.properties.unwrap()["status"].default.clone().unwrap();
            assert_eq!(default.0, json!({"observedGeneration": -1}), "{}", crd.spec.names.kind);
        }
    }
}
