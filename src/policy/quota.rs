//! `maxClientsPerNamespace`: the oldest clients of a namespace are let in, and the rest is refused.

use std::{
    collections::{BTreeMap, HashMap, btree_map::Range},
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;
use kube::ResourceExt;

use super::{Violation, namespace_of};
use crate::api::{DcrPolicy, FINALIZER, OAuthClient};

/// How many OAuthClients of the same namespace came before one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Older {
    /// Those that use the same profile.
    pub of_profile: usize,
    /// Those that use any profile of the same namespace.
    pub of_profile_namespace: usize,
}

pub(super) fn violation(policy: &DcrPolicy, older: Older) -> Option<Violation> {
    let most = policy.spec.max_clients_per_namespace?;
    let older = if policy.spec.profile_ref.is_some() { older.of_profile } else { older.of_profile_namespace };
    (older >= usize::try_from(most).unwrap_or(usize::MAX)).then(|| {
        // Not the client's own number: that would change, and with it the message, with every deletion.
        let value = format!("more than {most}");
        let hint = "the oldest OAuthClients of a namespace are let in; delete one that is not needed";
        Violation::new(policy, "maxClientsPerNamespace", &value, hint)
    })
}

/// Where a client stands among those of its namespace.
///
/// Creation times have whole seconds. Within one, the clients that hold the operator's finalizer come first: they may be
/// registered already. Then comes the order in which the watch showed them, which is the order in which they were made; so
/// no client that comes later can take the place of one that was let in.
type Place = (Timestamp, bool, u64, String, String);

/// The clients of every namespace in the order of their age. Kept by the watch.
#[derive(Debug, Default)]
pub struct Seniority(Mutex<Ranks>);

#[derive(Debug, Default)]
struct Ranks {
    /// Distinguishes what the watch shows one after the other. The first list has no order, and shares a number.
    seen: u64,
    listed: bool,
    namespaces: HashMap<String, BTreeMap<Place, (String, String)>>,
    places: HashMap<(String, String), Place>,
}

impl Seniority {
    /// Takes in what the watch shows, and `None` for a client that is gone. If a place has become free, the answer is the
    /// namespace of its profile.
    pub fn note(&self, namespace: &str, name: &str, client: Option<&OAuthClient>) -> Option<String> {
        let mut ranks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (namespace.to_owned(), name.to_owned());
        let uid = client.and_then(ResourceExt::uid);
        let known = ranks.places.get(&key).map(|place| place.4.clone());
        if known.is_some() && known == uid {
            return None;
        }
        let place = ranks.places.remove(&key);
        let freed = place.and_then(|place| ranks.namespaces.get_mut(namespace)?.remove(&place));
        if let (Some(client), Some(uid)) = (client, uid) {
            if ranks.listed {
                ranks.seen += 1;
            }
            let created = client.metadata.creation_timestamp.as_ref().map_or(Timestamp::MAX, |time| time.0);
            let held = client.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
            let place = (created, !held, ranks.seen, name.to_owned(), uid);
            let profile = (namespace_of(client).to_owned(), client.spec.profile_ref.name.clone());
            ranks.namespaces.entry(namespace.to_owned()).or_default().insert(place.clone(), profile);
            ranks.places.insert(key, place);
        }
        if ranks.namespaces.get(namespace).is_some_and(BTreeMap::is_empty) {
            ranks.namespaces.remove(namespace);
        }
        freed.map(|(profile_namespace, _)| profile_namespace)
    }

    /// The first list is complete: from now on, what is shown later came later.
    pub fn listed(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).listed = true;
    }

    /// The clients that came before this one. Counting ends at `enough`.
    #[must_use]
    pub fn older(&self, client: &OAuthClient, enough: usize) -> Older {
        let ranks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let namespace = client.namespace().unwrap_or_default();
        let Some(places) = ranks.namespaces.get(&namespace) else { return Older::default() };
        let uid = client.uid();
        let place = ranks.places.get(&(namespace, client.name_any())).filter(|place| Some(&place.4) == uid.as_ref());
        // What the watch has not shown yet came last.
        let before: Range<'_, Place, (String, String)> = match place {
            Some(place) => places.range(..place),
            None => places.range(..),
        };
        let mut older = Older::default();
        for (_, (profile_namespace, profile)) in before {
            if profile_namespace == namespace_of(client) {
                older.of_profile_namespace += 1;
                older.of_profile += usize::from(*profile == client.spec.profile_ref.name);
            }
            if older.of_profile >= enough {
                break;
            }
        }
        older
    }
}
