//! Every write that the controllers make, but events and the lease.
//!
//! Writes carry the `resourceVersion` that they were decided on. A write that was decided on an old state fails with
//! [`Error::Conflict`] instead of overwriting a newer one, also between two replicas.

use std::{collections::BTreeMap, fmt::Debug};

use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, Preconditions},
    core::NamespaceResourceScope,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use super::{Error, SecretData};
use crate::{
    api::{FINALIZER, OPERATOR},
    crash_point,
};

/// No object has this resourceVersion, so an apply that carries it can only create.
const MUST_NOT_EXIST: &str = "1";

/// What a Secret must be like for the write to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// There is no such Secret.
    Absent,
    /// It is as it was read, at this resourceVersion.
    Unchanged(String),
}

/// A Secret as the operator wants it.
#[derive(Clone, Debug, PartialEq)]
pub struct SecretSpec {
    pub namespace: String,
    pub name: String,
    pub type_: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub owner: OwnerReference,
    /// Holds the Secret until the operator lets go of it.
    pub finalizer: Option<String>,
    pub data: SecretData,
}

/// Creates or updates a Secret by server-side apply; keys that others added stay.
///
/// # Errors
/// [`Error::Conflict`] if the precondition does not hold; otherwise as [`Error::new`] classifies.
pub async fn apply_secret(client: &Client, spec: &SecretSpec, precondition: &Precondition) -> Result<Secret, Error> {
    patch_secret(client, spec, precondition, &PatchParams::apply(OPERATOR).force()).await
}

/// Asks whether the Secret could be written, by RBAC, quota and admission; nothing is.
///
/// # Errors
/// Those of [`apply_secret`].
pub async fn check_secret(client: &Client, spec: &SecretSpec, precondition: &Precondition) -> Result<(), Error> {
    patch_secret(client, spec, precondition, &PatchParams::apply(OPERATOR).force().dry_run()).await.map(|_| ())
}

async fn patch_secret(
    client: &Client,
    spec: &SecretSpec,
    precondition: &Precondition,
    parameters: &PatchParams,
) -> Result<Secret, Error> {
    let SecretSpec { namespace, name, type_, labels, annotations, owner, finalizer, data } = spec;
    let resource_version = match precondition {
        Precondition::Absent => MUST_NOT_EXIST.to_owned(),
        Precondition::Unchanged(version) => version.clone(),
    };
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace.clone()),
            resource_version: Some(resource_version),
            labels: Some(labels.clone()),
            annotations: Some(annotations.clone()).filter(|annotations| !annotations.is_empty()),
            owner_references: Some(vec![owner.clone()]),
            finalizers: finalizer.clone().map(|finalizer| vec![finalizer]),
            ..ObjectMeta::default()
        },
        type_: Some(type_.clone()),
        data: Some(data.to_kubernetes()),
        ..Secret::default()
    };
    Api::<Secret>::namespaced(client.clone(), namespace)
        .patch(name, parameters, &Patch::Apply(&secret))
        .await
        .map_err(|error| Error::new(format!("could not write Secret {namespace}/{name}"), error))
}

/// Removes a Secret of ours, its finalizer first. One that is gone already is fine.
///
/// # Errors
/// As [`Error::new`] classifies.
pub async fn remove_secret(client: &Client, secret: &Secret) -> Result<(), Error> {
    let (namespace, name) = (secret.namespace().unwrap_or_default(), secret.name_any());
    let api = Api::<Secret>::namespaced(client.clone(), &namespace);
    if secret.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        let others: Vec<&String> = secret.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).collect();
        match patch_metadata(client, secret, json!({"finalizers": others})).await {
            Ok(_) => {}
            Err(Error::Gone { .. }) => return Ok(()),
            Err(error) => return Err(error),
        }
        crash_point::reached("RemoveRegistration", "has let go of the Secret");
    }
    let same = DeleteParams {
        preconditions: Some(Preconditions { uid: secret.uid(), resource_version: None }),
        ..DeleteParams::default()
    };
    match api.delete(&name, &same).await {
        Ok(_) => Ok(()),
        Err(error) => match Error::new(format!("could not remove Secret {namespace}/{name}"), error) {
            Error::Gone { .. } => Ok(()),
            error => Err(error),
        },
    }
}

/// Merges `metadata` into the object's metadata, if the object is still as it was read; an object without a
/// resourceVersion stands for whatever is there.
///
/// # Errors
/// [`Error::Conflict`] if it was changed meanwhile; otherwise as [`Error::new`] classifies.
pub async fn patch_metadata<K>(client: &Client, object: &K, mut metadata: serde_json::Value) -> Result<K, Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    if let Some(version) = object.resource_version() {
        metadata["resourceVersion"] = json!(version);
    }
    Api::<K>::namespaced(client.clone(), &namespace)
        .patch(
            &name,
            &PatchParams { field_manager: Some(OPERATOR.into()), ..PatchParams::default() },
            &Patch::Merge(json!({"metadata": metadata})),
        )
        .await
        .map_err(|error| {
            Error::new(format!("could not write the metadata of {} {namespace}/{name}", K::kind(&())), error)
        })
}

/// Writes the status. Nobody else writes it, so there is no precondition but the object's identity.
///
/// # Errors
/// [`Error::Conflict`] if another object has taken the name; otherwise as [`Error::new`] classifies.
pub async fn apply_status<K, S>(client: &Client, object: &K, status: &S) -> Result<K, Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
    S: Serialize + Debug,
{
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"name": name, "uid": object.uid()},
        "status": status,
    });
    Api::<K>::namespaced(client.clone(), &namespace)
        .patch_status(&name, &PatchParams::apply(OPERATOR).force(), &Patch::Apply(&patch))
        .await
        .map_err(|error| {
            Error::new(format!("could not write the status of {} {namespace}/{name}", K::kind(&())), error)
        })
}
