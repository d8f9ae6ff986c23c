//! Whether the cluster has the CRDs that this operator was built with.

use std::collections::{HashMap, hash_map::Entry};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Client, ResourceExt};
use serde_json::Value;

use super::Error;

/// The names of those of `crds` that the API server does not serve.
///
/// # Errors
/// If the API server can't be asked.
pub async fn missing_kinds(client: &Client, crds: &[CustomResourceDefinition]) -> Result<Vec<String>, Error> {
    let mut missing = Vec::new();
    for crd in crds {
        let version = format!("{}/{}", crd.spec.group, version(crd));
        let served = match client.list_api_group_resources(&version).await {
            Ok(list) => list.resources.iter().any(|resource| resource.name == crd.spec.names.plural),
            // For a group that it does not know, the server's 404 is plain text without a reason.
            Err(kube::Error::Api(status)) if status.code == 404 => false,
            Err(error) => return Err(Error::new(format!("could not ask for the kinds of {version}"), error)),
        };
        if !served {
            missing.push(crd.name_any());
        }
    }
    Ok(missing)
}

/// The fields of `crds` that the API server's schemas lack, as `oauthclients.spec.suspend`: it drops them from what is
/// written. Of a field that is missing, its members are not listed.
///
/// # Errors
/// If the API server can't be asked.
pub async fn missing_fields(client: &Client, crds: &[CustomResourceDefinition]) -> Result<Vec<String>, Error> {
    let mut missing = Vec::new();
    let mut documents = HashMap::new();
    for crd in crds {
        let path = format!("/openapi/v3/apis/{}/{}", crd.spec.group, version(crd));
        // One document has all the kinds of a group and version.
        let document = match documents.entry(path) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let document = fetch(client, entry.key()).await?;
                entry.insert(document)
            }
        };
        let schemas = document["components"]["schemas"].as_object().into_iter().flatten();
        let served = schemas.map(|(_, schema)| schema).find(|schema| is_of(schema, &crd.spec.names.kind));
        let ours = crd.spec.versions.first().and_then(|version| version.schema.as_ref());
        let ours = serde_json::to_value(ours.and_then(|schema| schema.open_api_v3_schema.as_ref())).unwrap_or_default();
        compare(&crd.spec.names.plural, &ours, served.unwrap_or(&Value::Null), &mut missing);
    }
    Ok(missing)
}

async fn fetch(client: &Client, path: &str) -> Result<Value, Error> {
    let what = || format!("could not read {path}");
    let request = http::Request::get(path).body(Vec::new());
    let request = request.map_err(|error| Error::new(what(), kube::Error::HttpError(error)))?;
    client.request(request).await.map_err(|error| Error::new(what(), error))
}

fn version(crd: &CustomResourceDefinition) -> &str {
    crd.spec.versions.first().map_or("", |version| &version.name)
}

fn is_of(schema: &Value, kind: &str) -> bool {
    let kinds = schema["x-kubernetes-group-version-kind"].as_array().into_iter().flatten();
    kinds.into_iter().any(|named| named["kind"] == kind)
}

fn compare(path: &str, ours: &Value, served: &Value, missing: &mut Vec<String>) {
    for (name, schema) in ours["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        match served["properties"].get(name) {
            None => missing.push(path),
            Some(served) => compare(&path, schema, served, missing),
        }
    }
    for (member, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
        if ours[member].is_object() {
            compare(&format!("{path}{mark}"), &ours[member], &served[member], missing);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_that_the_server_lacks_is_named_once_with_its_path() {
        let ours = json!({"properties": {"spec": {"properties": {
            "old": {"type": "string"},
            "new": {"properties": {"inner": {"type": "string"}}},
            "list": {"items": {"properties": {"a": {}, "b": {}}}},
        }}}});
        let served = json!({"properties": {"spec": {"properties": {
            "old": {"type": "string"},
            "list": {"items": {"properties": {"a": {}}}},
        }}}});
        let mut missing = Vec::new();
        compare("oauthclients", &ours, &served, &mut missing);
        assert_eq!(missing, ["oauthclients.spec.list[].b", "oauthclients.spec.new"]);
        missing.clear();
        compare("oauthclients", &ours, &ours, &mut missing);
        assert!(missing.is_empty());
    }
}
