//! What people do: clients that come, change and go one by one, and crowds of them that go all at once.

use std::time::{Duration, Instant};

use fastrand::Rng;
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Counts, Storm, note};
use crate::fixtures::*;

const MOST_CLIENTS: usize = 16;
/// The clients of a crowd: in a storm that lasts, and in a short one.
const CROWD: usize = 1000;
const SMALL_CROWD: usize = 40;

impl Storm {
    /// The namespaces of the crowds.
    pub(super) const CROWDS: &str = "/api/v1/namespaces?labelSelector=crowd";

    pub(super) async fn people(&self, until: Instant, mut rng: Rng) -> Counts {
        let (mut counts, mut alive, mut made) = (Counts::new(), Vec::<String>::new(), 0_usize);
        while Instant::now() < until {
            let merge = async |name: &str, body: Value| {
                self.insist("PATCH", &self.home.path(CLIENTS, name), "application/merge-patch+json", &body).await;
            };
            let one = (!alive.is_empty()).then(|| rng.usize(..alive.len()));
            match (rng.u8(..100), one) {
                (0..30, _) | (_, None) if alive.len() < MOST_CLIENTS => {
                    made += 1;
                    let name = format!("c-{made}");
                    let path = applied(&self.home.path(CLIENTS, &name));
                    let client = self.new_client(&name, &mut rng);
                    self.insist("PATCH", &path, "application/apply-patch+yaml", &client).await;
                    alive.push(name);
                    note(&mut counts, "clients created");
                }
                (0..55, Some(one)) => {
                    let scope = ["openid", "email", "openid email", "profile"][rng.usize(..4)];
                    merge(&alive[one], json!({"spec": {"clientMetadata": {"scope": scope}}})).await;
                    note(&mut counts, "clients changed");
                }
                (0..75, Some(one)) => {
                    let asked = rng.u32(..).to_string();
                    let annotation = json!({"dcr-operator.dev/rotate-requested-at": asked});
                    merge(&alive[one], json!({"metadata": {"annotations": annotation}})).await;
                    note(&mut counts, "rotations asked for");
                }
                (0..80, Some(one)) => {
                    let path = self.home.path(SECRETS, &alive[one]);
                    self.insist("DELETE", &path, "application/json", &json!({})).await;
                    note(&mut counts, "Secrets removed");
                }
                (_, Some(one)) => {
                    let name = alive.swap_remove(one);
                    self.insist("DELETE", &self.home.path(CLIENTS, &name), "application/json", &json!({})).await;
                    note(&mut counts, "clients deleted");
                }
                (_, None) => {}
            }
            sleep(Duration::from_millis(rng.u64(50..300))).await;
        }
        counts
    }

    fn new_client(&self, name: &str, rng: &mut Rng) -> Value {
        let mut client = self.home.oauth_client(name);
        client["spec"]["profileRef"]["name"] = json!(self.any_profile(rng));
        let when: Vec<&str> =
            ["UpdateUnsupported", "RegistrationLost", "Rotation"].into_iter().filter(|_| rng.bool()).collect();
        let overlap = ["0s", "5s", "1h"][rng.usize(..3)];
        client["spec"]["replacement"] = json!({"when": when, "overlap": overlap});
        client
    }

    fn any_profile(&self, rng: &mut Rng) -> &str {
        let servers = self.servers();
        servers[rng.usize(..servers.len())].0
    }

    /// Namespaces full of clients. All clients are deleted at once, or the namespace is deleted under them.
    pub(super) async fn crowds(&self, until: Instant, duration: Duration, mut rng: Rng) -> Counts {
        let mut counts = Counts::new();
        // The last one needs some time to go.
        let lasts = duration >= Duration::from_mins(5);
        let (size, rest) = if lasts { (CROWD, Duration::from_mins(2)) } else { (SMALL_CROWD, Duration::from_secs(15)) };
        for number in 1.. {
            if Instant::now() + rest > until {
                break;
            }
            let namespace = format!("crowd-{number}");
            let path = format!("/api/v1/namespaces/{namespace}");
            let labelled = json!({"apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": namespace, "labels": {"crowd": "true"}}});
            self.insist("PATCH", &applied(&path), "application/apply-patch+yaml", &labelled).await;
            let clients = format!("/apis/dcr-operator.dev/v1alpha1/namespaces/{namespace}/oauthclients");
            let crowd: Vec<(String, Value)> = (1..=size)
                .map(|member| {
                    let name = format!("{namespace}-{member}");
                    let mut client = self.home.oauth_client(&name);
                    client["spec"]["profileRef"] =
                        json!({"name": self.any_profile(&mut rng), "namespace": self.home.name});
                    client["spec"]["clientMetadata"]["client_name"] = json!(format!("{name} of {namespace}"));
                    (applied(&format!("{clients}/{name}")), client)
                })
                .collect();
            let created = stream::iter(&crowd).for_each_concurrent(16, async |(path, client)| {
                self.insist("PATCH", path, "application/apply-patch+yaml", client).await;
            });
            created.await;
            // Some are registered by then, and some are about to be.
            sleep(rest.mul_f64(rng.f64() / 4.0)).await;
            if rng.bool() {
                note(&mut counts, format!("{size} clients deleted at once"));
                self.insist("DELETE", &clients, "application/json", &json!({})).await;
                self.until_empty(&clients, until).await;
            } else {
                note(&mut counts, format!("namespaces of {size} clients deleted under them"));
            }
            self.insist("DELETE", &path, "application/json", &json!({})).await;
            self.until_empty(Self::CROWDS, until).await;
        }
        counts
    }

    async fn until_empty(&self, path: &str, until: Instant) {
        while Instant::now() < until {
            let list = self.insist("GET", path, "application/json", &Value::Null).await.unwrap_or_default();
            if list["items"].as_array().is_none_or(Vec::is_empty) {
                return;
            }
            sleep(Duration::from_millis(500)).await;
        }
    }
}

/// As `kubectl apply --server-side` does.
fn applied(path: &str) -> String {
    format!("{path}?fieldManager=people&force=true")
}
