//! Random histories: what people ask for, how the server answers, and where the process dies, against a small model of a
//! server. After each event, and when all is calm again, five things must hold.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use secrecy::ExposeSecret;

use super::*;
use crate::{
    dcr::{self, Refusal, Trouble, Words},
    oauth_client::{ownership::as_the_status_says, registration::Origin},
};

/// What people do, and what happens to the process.
#[derive(Clone, Debug)]
enum Event {
    /// The operator looks at the client, and the server answers so, in turn. It dies after so many effects.
    Look {
        fates: Vec<Fate>,
        dies_after: Option<usize>,
    },
    ChangeSpec(u8),
    AskForRotation,
    /// Somebody removes the application's Secret.
    RemoveSecret,
    TimePasses(u32),
    Delete,
}

/// What becomes of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    /// Carried out, and nobody hears of it.
    AnswerLost,
    /// Not carried out, and nobody knows that.
    RequestLost,
    /// Not carried out, and the server says so: not now.
    NotNow,
    /// The server says that it will never do that.
    Refused,
}

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A read and an update change token and secret.
    Strict,
    /// An update changes the token.
    Plain,
    Unmanaged,
}

#[derive(Clone, Debug)]
struct ServerClient {
    attempt: String,
    secret: String,
    token: Option<String>,
    is_deleted: bool,
}

/// The pass has ended early.
enum Halt {
    Died,
    Failed(dcr::Error),
}

struct World {
    kind: Kind,
    now: i64,
    issued: usize,
    // What is persisted.
    client: Option<OAuthClient>,
    registration: Option<Registration>,
    secret: Option<(SecretSpec, SecretData)>,
    // What people have been told.
    orphans: BTreeSet<String>,
    possible_orphans: BTreeSet<String>,
    // The server.
    clients: BTreeMap<String, ServerClient>,
    sent_attempts: BTreeSet<String>,
    refused_inputs: BTreeSet<u64>,
    // In memory.
    blocked: Option<u64>,
    fates: Vec<Fate>,
    effects_left: Option<usize>,
}

impl World {
    fn new(kind: Kind, replacement: &[&str], overlap: &str) -> Self {
        let mut client = client();
        client.spec.replacement = serde_json::from_value(json!({"when": replacement, "overlap": overlap})).unwrap();
        Self {
            kind,
            now: NOW,
            issued: 0,
            client: Some(client),
            registration: None,
            secret: None,
            orphans: BTreeSet::new(),
            possible_orphans: BTreeSet::new(),
            clients: BTreeMap::new(),
            sent_attempts: BTreeSet::new(),
            refused_inputs: BTreeSet::new(),
            blocked: None,
            fates: Vec::new(),
            effects_left: None,
        }
    }

    fn next(&mut self, what: &str) -> String {
        self.issued += 1;
        format!("{what}-{}", self.issued)
    }

    fn happen(&mut self, event: Event) -> Result<(), TestCaseError> {
        let Some(client) = &mut self.client else { return Ok(()) };
        match event {
            Event::Look { fates, dies_after } => {
                (self.fates, self.effects_left) = (fates, dies_after);
                self.fates.reverse();
                self.look()?;
            }
            Event::ChangeSpec(scope) => {
                let metadata = client.spec.client_metadata.as_mut().unwrap();
                metadata.scope = Some(["openid", "email", "openid email"][usize::from(scope) % 3].to_owned());
                client.metadata.generation = client.metadata.generation.map(|generation| generation + 1);
                // Something else, and then the same again: that is asked for anew.
                self.refused_inputs.clear();
            }
            Event::AskForRotation => {
                let value = self.next("rotate");
                let client = self.client.as_mut().unwrap();
                client.annotations_mut().insert(annotations::ROTATE.into(), value);
            }
            Event::RemoveSecret => self.secret = None,
            Event::TimePasses(seconds) => self.now += i64::from(seconds),
            Event::Delete => {
                if client.finalizers().is_empty() {
                    self.client = None;
                } else {
                    client.metadata.deletion_timestamp.get_or_insert(Time(at(self.now)));
                }
            }
        }
        Ok(())
    }

    fn observed(&mut self) -> Observed {
        let mut observed = new_client();
        observed.attempt_id = self.next("attempt");
        observed.client = self.client.clone().unwrap();
        let profile = observed.profile.as_mut().unwrap();
        profile.spec.server =
            serde_json::from_value(json!({"readRotatesCredentials": self.kind == Kind::Strict})).unwrap();
        observed.compared_at = at(self.now);
        if let Some(registration) = &self.registration {
            // Nobody has edited it.
            let held = as_the_status_says(kept(registration.clone()), observed.client.status.as_ref());
            prop_like(matches!(&held, RegistrationSecret::Held { registration: held, .. }
                if held.to_data() == registration.to_data()));
            observed.registration = held;
        }
        if let Some((spec, _)) = &self.secret {
            observed.apply(written(spec));
        }
        let inputs = observed.backoff_inputs();
        observed.not_before = (self.blocked == Some(inputs)).then_some(Timestamp::MAX);
        observed
    }

    /// As the controller's pass.
    fn look(&mut self) -> Result<(), TestCaseError> {
        let mut observed = self.observed();
        let mut planned = plan(&observed, at(self.now));
        let mut failure = None;
        for steps in 0.. {
            prop_assert!(steps < 16, "a loop: {:?}", planned.step);
            let Some(step) = planned.step.clone() else { break };
            match self.act(&observed, step.clone()) {
                Ok(change) => observed.apply(change),
                Err(Halt::Died) => {
                    self.blocked = None;
                    return Ok(());
                }
                Err(Halt::Failed(error)) => {
                    let error = crate::oauth_client::act::Error::Server(error);
                    let is_lost = error.reason() == reasons::REGISTRATION_LOST;
                    if error.retry() == crate::retry::Retry::OnChange {
                        self.blocked = Some(observed.backoff_inputs());
                    }
                    failure = Some(status::Failure::new(&step, &error));
                    if !is_lost || observed.lost.is_some() {
                        break;
                    }
                    observed.lost = Some(error.to_string());
                }
            }
            planned = plan(&observed, at(self.now));
        }
        if observed.lost.is_none() && failure.as_ref().is_some_and(|f| f.finding.reason == reasons::REGISTRATION_LOST) {
            failure = None;
        }
        if observed.client.finalizers().is_empty() && observed.client.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        if self.effect().is_ok() {
            let status = status::status(&observed, &planned, failure.as_ref(), at(self.now));
            self.client.as_mut().unwrap().status = Some(status);
        }
        Ok(())
    }

    /// One thing outside of the process is about to change.
    fn effect(&mut self) -> Result<(), Halt> {
        match &mut self.effects_left {
            Some(0) => Err(Halt::Died),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// A call: whether it is carried out, and what comes back.
    fn call(&mut self, refusal: Refusal) -> Result<(bool, Option<dcr::Error>), Halt> {
        self.effect()?;
        let request = || "a call".to_owned();
        let unavailable = |trouble| Some(dcr::Error::Unavailable { request: request(), trouble, retry_after: None });
        let lost = || unavailable(Trouble::ConnectionLost("reset".into()));
        Ok(match self.fates.pop().unwrap_or(Fate::Answered) {
            Fate::Answered => (true, None),
            Fate::AnswerLost => (true, lost()),
            Fate::RequestLost => (false, lost()),
            Fate::NotNow => (false, unavailable(Trouble::Status { status: 429, words: Words::default() })),
            Fate::Refused => (false, Some(refused(refusal, 400))),
        })
    }

    // --- as `act`

    fn act(&mut self, observed: &Observed, step: Step) -> Result<Change, Halt> {
        match step {
            Step::AddFinalizer => {
                self.effect()?;
                self.client.as_mut().unwrap().finalizers_mut().push(FINALIZER.into());
                Ok(self.client_written())
            }
            Step::Register { attempt, document, .. } => self.register(observed, attempt, document),
            Step::Update { document, body, .. } => {
                prop_like(body.0.contains_key("client_id") && !body.0.contains_key("client_secret"));
                self.manage(observed, Some(document))
            }
            Step::Read { .. } => self.manage(observed, None),
            Step::Retire { client_id } => {
                let former = held(observed).retiring;
                let former = former.iter().find(|former| former.information.client_id == client_id).unwrap();
                self.remove(&former.information, None, former.is_lost)?;
                self.effect()?;
                let mut registration = held(observed);
                registration.retiring.retain(|former| former.information.client_id != client_id);
                self.registration = Some(registration.clone());
                Ok(Change::Retired { secret: StoredSecret::default(), registration: Box::new(registration) })
            }
            Step::ApplySecret { secret, .. } => {
                self.effect()?;
                self.secret = Some((secret.clone(), secret.data.clone()));
                Ok(written(&secret))
            }
            Step::ReportPossibleOrphan { attempt } => {
                self.effect()?;
                self.possible_orphans.insert(attempt.id.clone());
                self.effect()?;
                let orphan = crate::api::PossibleOrphan { attempt: attempt.id, started_at: Time(attempt.started_at) };
                let status = self.client.as_mut().unwrap().status.get_or_insert_default();
                status.possible_orphans.push(orphan);
                Ok(self.client_written())
            }
            Step::Deregister => {
                let registration = held(observed);
                let was_lost = said(observed, conditions::REGISTERED).reason == reasons::REGISTRATION_LOST
                    || registration.history.unconfirmed_since.is_some();
                self.remove(&registration.information, registration.previous_token.as_ref(), was_lost)?;
                self.settle(observed)
            }
            Step::ReportOrphan { client_ids, .. } => {
                self.effect()?;
                self.orphans.extend(client_ids);
                self.settle(observed)
            }
            Step::RemoveRegistration => {
                self.effect()?;
                self.registration = None;
                Ok(Change::RegistrationRemoved)
            }
            Step::Release => {
                self.effect()?;
                let mut client = self.client.take().unwrap();
                client.finalizers_mut().clear();
                self.secret = None;
                Ok(Change::Released(Box::new(client)))
            }
            other => panic!("no history comes to {}", other.name()),
        }
    }

    fn client_written(&self) -> Change {
        Change::ClientWritten(Box::new(self.client.clone().unwrap()))
    }

    fn settle(&mut self, observed: &Observed) -> Result<Change, Halt> {
        self.effect()?;
        let settled = Attempt::settled(&observed.client, at(self.now));
        self.note(&settled);
        Ok(self.client_written())
    }

    fn note(&mut self, attempt: &Attempt) {
        let client = self.client.as_mut().unwrap();
        client.annotations_mut().insert(annotations::ATTEMPT.into(), attempt.to_annotation());
    }

    fn register(&mut self, observed: &Observed, attempt: Attempt, document: Document) -> Result<Change, Halt> {
        self.effect()?;
        if !has_finalizer(observed) {
            self.client.as_mut().unwrap().finalizers_mut().push(FINALIZER.into());
        }
        self.note(&attempt);
        let client = self.client.clone().unwrap();
        let inputs = observed.refusal_inputs();
        prop_like(!self.refused_inputs.contains(&inputs));
        let (is_carried_out, error) = self.call(Refusal::InvalidClientMetadata)?;
        prop_like(self.sent_attempts.insert(attempt.id.clone()));
        let id = self.next("client");
        let (secret, token) = (self.next("secret"), self.next("token"));
        let token = (self.kind != Kind::Unmanaged).then_some(token);
        if is_carried_out {
            let new = ServerClient {
                attempt: attempt.id.clone(),
                secret: secret.clone(),
                token: token.clone(),
                is_deleted: false,
            };
            self.clients.insert(id.clone(), new);
        }
        if let Some(error) = error {
            if error.outcome() == dcr::Outcome::NotRegistered {
                self.effect()?;
                let is_refused = error.retry() == crate::retry::Retry::OnChange;
                let refused_inputs = is_refused.then_some(inputs);
                self.refused_inputs.extend(refused_inputs);
                let ended = Ended { reason: error.reason().into(), message: error.to_string(), refused_inputs };
                self.note(&Attempt { ended: Some(ended), ..attempt });
            }
            return Err(Halt::Failed(error));
        }
        self.effect()?;
        let is_replacement = attempt.supersedes.is_some();
        let registration = Registration {
            attempt: attempt.id,
            information: answer_of(&id, &secret, token.as_deref(), &document.0),
            request: Some(document.0),
            history: History {
                origin: if is_replacement { Origin::Replaced } else { Origin::Registered },
                credentials_issued_at: at(self.now),
                token_issued_at: at(self.now),
                rotated: is_replacement,
                handled_rotate_at: observed.client.annotations().get(annotations::ROTATE).cloned(),
                ..History::default()
            },
            retiring: observed.left_behind(attempt.supersedes.as_deref(), &id, at(self.now)),
            ..registration(&answer())
        };
        self.registration = Some(registration.clone());
        let (client, secret) = (Box::new(client), StoredSecret::default());
        Ok(Change::Enrolled { client, secret, registration: Box::new(registration) })
    }

    /// An update, or a read.
    fn manage(&mut self, observed: &Observed, update: Option<Document>) -> Result<Change, Halt> {
        let before = held(observed);
        let mut announced = before.clone();
        self.effect()?;
        announced.history.unconfirmed_since = Some(at(self.now));
        self.registration = Some(announced.clone());
        let id = announced.information.client_id.clone();
        let mut last_error = None;
        for access in announced.access(false) {
            let token = match access {
                Access::Token => announced.information.registration_access_token.clone(),
                _ => announced.previous_token.clone(),
            };
            let (is_carried_out, mut error) = self.call(Refusal::UpdateRejected)?;
            let (new_token, new_secret) = (self.next("token"), self.next("secret"));
            let server = self.clients.get_mut(&id).unwrap();
            let is_known =
                !server.is_deleted && server.token.as_deref() == token.as_ref().map(ExposeSecret::expose_secret);
            if is_carried_out && is_known {
                server.token = Some(new_token);
                if self.kind == Kind::Strict {
                    server.secret = new_secret;
                }
            } else if is_carried_out && error.is_none() {
                error = Some(refused(Refusal::RegistrationLost, 401));
            }
            let server = server.clone();
            match error {
                None => {
                    self.effect()?;
                    let metadata = update.as_ref().map_or(&announced.information.metadata, |document| &document.0);
                    let information = answer_of(&id, &server.secret, server.token.as_deref(), metadata);
                    let mut answered = announced.answered(information, access, at(self.now));
                    match update {
                        Some(document) => answered.request = Some(document.0),
                        None => {
                            answered.history.handled_rotate_at =
                                observed.client.annotations().get(annotations::ROTATE).cloned();
                        }
                    }
                    self.registration = Some(answered.clone());
                    let live = Live { information: answered.information.clone(), drift: Vec::new() };
                    let secret = StoredSecret::default();
                    return Ok(Change::Answered { secret, registration: Box::new(answered), live });
                }
                Some(error) if error.reason() == reasons::REGISTRATION_LOST => last_error = Some(error),
                Some(error) => {
                    if error.outcome() == dcr::Outcome::NotRegistered && before.history.unconfirmed_since.is_none() {
                        self.effect()?;
                        self.registration = Some(before);
                    }
                    if error.reason() == reasons::UPDATE_REJECTED
                        && let Some(attempt) = Attempt::last(&observed.client)
                    {
                        self.effect()?;
                        let refused_inputs = Some(observed.refusal_inputs());
                        let ended = Ended { reason: error.reason().into(), message: error.to_string(), refused_inputs };
                        self.note(&Attempt { ended: Some(ended), ..attempt });
                    }
                    return Err(Halt::Failed(error));
                }
            }
        }
        Err(Halt::Failed(last_error.unwrap()))
    }

    fn remove(
        &mut self,
        client: &ClientInformation,
        previous: Option<&secrecy::SecretString>,
        is_doubtful: bool,
    ) -> Result<(), Halt> {
        let tokens = [client.registration_access_token.as_ref(), previous];
        let (mut is_refused, mut is_there) = (false, false);
        for token in tokens.into_iter().flatten() {
            let (is_carried_out, error) = self.call(Refusal::DeregistrationRefused)?;
            let server = self.clients.get_mut(&client.client_id).unwrap();
            let is_known = !server.is_deleted && server.token.as_deref() == Some(token.expose_secret());
            server.is_deleted |= is_carried_out && is_known;
            match error {
                Some(error) if error.reason() == "DeregistrationRefused" => is_there = true,
                Some(error) => return Err(Halt::Failed(error)),
                None if is_known => return Ok(()),
                None => is_refused = true,
            }
        }
        if !is_refused || is_there || is_doubtful {
            self.effect()?;
            self.orphans.insert(client.client_id.clone());
        }
        Ok(())
    }

    // --- what must hold

    fn is_held(&self, id: &str) -> bool {
        let registration = self.registration.as_ref();
        registration.is_some_and(|registration| {
            let retiring = registration.retiring.iter().map(|former| former.information.client_id.as_str());
            retiring.chain([registration.information.client_id.as_str()]).any(|held| held == id)
        })
    }

    fn check(&self, is_calm: bool) -> Result<(), TestCaseError> {
        let last = self.client.as_ref().and_then(Attempt::last);
        for (id, server) in self.clients.iter().filter(|(_, server)| !server.is_deleted) {
            let is_reported = self.orphans.contains(id) || self.possible_orphans.contains(&server.attempt);
            let is_open = last.as_ref().is_some_and(|last| last.id == server.attempt && last.ended.is_none());
            prop_assert!(self.is_held(id) || is_reported || (is_open && !is_calm), "{id} is an orphan in silence");
        }
        let Some(registration) = &self.registration else { return Ok(()) };
        let information = &registration.information;
        let server = &self.clients[&information.client_id];
        let text = |secret: &Option<secrecy::SecretString>| secret.as_ref().map(|s| s.expose_secret().to_owned());
        let is_good = text(&information.client_secret).as_ref() == Some(&server.secret)
            && text(&information.registration_access_token) == server.token;
        let is_in_doubt = registration.history.unconfirmed_since.is_some();
        prop_assert!(is_good || is_in_doubt || server.is_deleted, "the credentials are lost, and nothing says so");
        // What workloads use: of the client in use, or of a former one that is still there.
        if let Some((_, data)) = &self.secret
            && self.kind != Kind::Strict
        {
            let used = &self.clients[data.text("client-id").unwrap()];
            let goes = self.client.as_ref().is_some_and(|client| client.metadata.deletion_timestamp.is_some());
            prop_assert!(goes || !used.is_deleted && data.text("client-secret") == Some(used.secret.as_str()));
        }
        Ok(())
    }

    /// Nothing goes wrong any more: it must come to rest, and be as it should be.
    fn calm_down(&mut self) -> Result<(), TestCaseError> {
        self.now += 7200;
        let calm = || Event::Look { fates: Vec::new(), dies_after: None };
        for _ in 0..6 {
            self.happen(calm())?;
        }
        self.check(true)?;
        let Some(client) = self.client.clone() else { return Ok(()) };
        prop_assert!(client.metadata.deletion_timestamp.is_none(), "it is not gone: {:?}", client.metadata);
        let conditions = &client.status.as_ref().unwrap().conditions;
        let is_true = |type_| condition(conditions, type_).is_some_and(|condition| condition.status == "True");
        prop_assert!(is_true(conditions::READY) || is_true(conditions::STALLED), "{conditions:?}");
        let (calls, writes) = (self.issued, self.client.clone());
        self.happen(calm())?;
        // An attempt's id is made for each look.
        prop_assert!(self.issued == calls + 1, "it goes on calling");
        prop_assert!(self.client.as_ref().unwrap().status == writes.unwrap().status, "it goes on writing");
        Ok(())
    }
}

/// What no answer and no history may bring about.
fn prop_like(holds: bool) {
    assert!(holds, "the same is sent twice, or what is forbidden in an update");
}

fn refused(refusal: Refusal, status: u16) -> dcr::Error {
    dcr::Error::Refused { request: "a call".into(), status, words: Words::default(), refusal }
}

fn answer_of(
    id: &str,
    secret: &str,
    token: Option<&str>,
    metadata: &serde_json::Map<String, Value>,
) -> ClientInformation {
    let mut answer = json!({"client_id": id, "client_secret": secret});
    if let Some(token) = token {
        answer["registration_access_token"] = json!(token);
        answer["registration_client_uri"] = json!(format!("https://as/reg/{id}"));
    }
    let mut answer = answer.as_object().cloned().unwrap();
    answer.extend(metadata.clone());
    ClientInformation::from_json(answer).unwrap()
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Answered),
        2 => Just(Fate::AnswerLost),
        1 => Just(Fate::RequestLost),
        1 => Just(Fate::NotNow),
        1 => Just(Fate::Refused),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (prop::collection::vec(fate(), 0..4), prop::option::of(0_usize..14))
            .prop_map(|(fates, dies_after)| Event::Look { fates, dies_after }),
        3 => any::<u8>().prop_map(Event::ChangeSpec),
        2 => Just(Event::AskForRotation),
        1 => Just(Event::RemoveSecret),
        2 => (0_u32..100_000).prop_map(Event::TimePasses),
        1 => Just(Event::Delete),
    ]
}

proptest! {
    // PROPTEST_CASES asks for more than the usual number.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_history_loses_a_credential_or_leaves_an_orphan_in_silence(
        kind in prop_oneof![Just(Kind::Strict), Just(Kind::Plain), Just(Kind::Unmanaged)],
        when in prop::sample::subsequence(vec!["UpdateUnsupported", "RegistrationLost", "Rotation"], 0..=3),
        overlap in prop_oneof![Just("0s"), Just("1h")],
        events in prop::collection::vec(event(), 1..24),
    ) {
        let mut world = World::new(kind, &when, overlap);
        for event in events {
            world.happen(event)?;
            world.check(false)?;
        }
        world.calm_down()?;
    }
}
