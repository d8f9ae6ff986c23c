use serde_json::{Value, json};

use super::*;
use crate::{
    api::{TokenProfile, conditions},
    dcr::{self, ServerMetadata},
    kubernetes::condition,
    token_profile::{observe, status},
};

const NOW: i64 = 1_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn now() -> Timestamp {
    at(NOW)
}

fn observed(spec: Value) -> Observed {
    let profile: TokenProfile = serde_json::from_value(json!({
        "apiVersion": "dcr-operator.dev/v1alpha1", "kind": "TokenProfile",
        "metadata": {"name": "token-service", "namespace": "identity", "uid": "p", "generation": 1},
        "spec": spec,
    }))
    .unwrap();
    let client = dcr::ClientCredentials {
        client_id: "server".into(),
        authentication: dcr::ClientAuthentication::ClientSecretBasic("s".into()),
        scope: None,
        parameters: std::collections::BTreeMap::new(),
    };
    Observed {
        profile,
        clients: 0,
        ca_bundle: Ok(None),
        credential: Ok(Credential::ClientCredentials(client)),
        client_identity: Ok(None),
        management_client: Ok(()),
        finding: observe::Finding::default(),
        not_before: None,
        allow_insecure_http: false,
    }
}

fn discovered() -> Observed {
    observed(json!({"issuer": "https://as"}))
}

fn metadata() -> ServerMetadata {
    ServerMetadata {
        issuer: "https://as".into(),
        token_endpoint: Some("https://as/token".into()),
        registration_endpoint: Some("https://as/reg".into()),
        ..ServerMetadata::default()
    }
}

fn ready() -> Observed {
    let mut observed = discovered();
    observed.finding.metadata = Some(metadata());
    observed.finding.token_obtained = true;
    observed.finding.complete_at = Some(at(NOW - 60));
    observed
}

fn plan_of(observed: &Observed) -> Plan {
    plan(observed, now())
}

fn failure(at: FailedStep, curable_by_time: bool) -> Failure {
    Failure { at, reason: "ServerUnavailable", message: "no answer".into(), curable_by_time }
}

fn discover_as() -> Step {
    Step::Discover { issuer: "https://as".into() }
}

fn obtain() -> Step {
    Step::ObtainToken { token_endpoint: "https://as/token".into() }
}

#[test]
fn a_new_profile_is_discovered_and_then_its_credential_tried() {
    let mut observed = discovered();
    assert_eq!(plan(&observed, now()).step, Some(discover_as()));
    observed.finding.metadata = Some(metadata());
    assert_eq!(plan(&observed, now()).step, Some(obtain()));
    observed.finding.token_obtained = true;
    let rest = plan(&observed, now());
    assert_eq!(rest.step, None);
    assert_eq!(
        (rest.discovery.reason.as_str(), rest.credentials.reason.as_str()),
        ("MetadataFetched", "TokenObtained")
    );
    assert_eq!(rest.endpoints.registration.as_deref(), Some("https://as/reg"));
}

#[test]
fn a_profile_that_is_well_rests_until_it_is_looked_at_again() {
    let rest = plan(&ready(), now());
    assert_eq!((rest.step, rest.requeue_after), (None, Some(Duration::from_mins(59))));
    assert_eq!(plan(&ready(), at(NOW + 3600)).step, Some(discover_as()));
}

#[test]
fn what_asks_the_server_for_nothing_is_looked_at_once_an_hour_all_the_same() {
    for credential in [Credential::NotRequired, Credential::BearerToken("t".into())] {
        let mut given = observed(json!({"endpoints": {"token": "https://a/token", "registration": "https://a/reg"}}));
        given.credential = Ok(credential);
        given.finding.complete_at = Some(now());
        for later in [0, 60, 3600, 86_400] {
            let rest = plan(&given, at(NOW + later));
            assert_eq!((rest.step, rest.requeue_after), (None, Some(RECHECK)), "{later} s later");
        }
    }
}

#[test]
fn a_credential_that_may_not_be_read_is_told_in_the_words_of_the_api_server() {
    let mut forbidden = ready();
    let words = "secrets \"registrar\" is forbidden: User \"dcr-operator\" cannot get";
    let source = crate::kubernetes::Error::Forbidden { what: "could not read Secret".into(), message: words.into() };
    forbidden.credential = Err(Error::Kubernetes(source));
    let rest = plan(&forbidden, now());
    assert_eq!((rest.step, rest.stalled, rest.requeue_after), (None, false, Some(Duration::from_secs(10))));
    assert_eq!(rest.credentials.reason, "KubernetesForbidden");
    assert!(rest.credentials.message.contains(words), "{}", rest.credentials.message);
}

#[test]
fn a_certificate_is_shown_where_the_server_asks_for_it() {
    let obtained_at = |authentication, spec| {
        let mut observed = observed(spec);
        observed.finding.metadata =
            Some(ServerMetadata { mtls_token_endpoint: Some("https://mtls.as/token".into()), ..metadata() });
        let Ok(Credential::ClientCredentials(client)) = &mut observed.credential else { panic!() };
        client.authentication = authentication;
        let plan = plan_of(&observed);
        assert_eq!(plan.endpoints.token.as_deref().map(|token| token.contains("mtls")), Some(false));
        let Some(Step::ObtainToken { token_endpoint }) = plan.step else { panic!("{:?}", plan.step) };
        token_endpoint
    };
    let (certificate, secret) =
        (dcr::ClientAuthentication::TlsClientAuth, dcr::ClientAuthentication::ClientSecretBasic("s".into()));
    let found = json!({"issuer": "https://as"});
    assert_eq!(obtained_at(certificate.clone(), found.clone()), "https://mtls.as/token");
    assert_eq!(obtained_at(secret, found), "https://as/token");
    let given = json!({"issuer": "https://as", "endpoints": {"token": "https://as/given"}});
    assert_eq!(obtained_at(certificate, given), "https://as/given");
}

#[test]
fn given_endpoints_need_no_discovery_and_win_over_it() {
    let mut given = observed(json!({"endpoints": {"token": "https://a/token", "registration": "https://a/reg"}}));
    assert_eq!(plan(&given, now()).step, Some(Step::ObtainToken { token_endpoint: "https://a/token".into() }));
    given.finding.token_obtained = true;
    assert_eq!(plan(&given, now()).discovery.reason, "EndpointsGiven");

    let mut both = observed(json!({"issuer": "https://as", "endpoints": {"registration": "https://b/reg"}}));
    both.finding.metadata = Some(metadata());
    let endpoints = plan(&both, now()).endpoints;
    assert_eq!(endpoints.registration.as_deref(), Some("https://b/reg"));
    assert_eq!(endpoints.token.as_deref(), Some("https://as/token"));
}

#[test]
fn open_registration_and_bearer_tokens_are_not_tried() {
    for (credential, reason) in
        [(Credential::NotRequired, "NotRequired"), (Credential::BearerToken("t".into()), "TokenObtained")]
    {
        let mut observed = discovered();
        observed.finding.metadata = Some(metadata());
        observed.credential = Ok(credential);
        let rest = plan(&observed, now());
        assert_eq!((rest.step, rest.credentials.reason.as_str()), (None, reason));
    }
}

#[test]
fn what_is_missing_in_the_cluster_is_named_and_looked_for_again() {
    let missing = || Error::NotFound { kind: "Secret", namespace: "identity".into(), name: "registrar".into() };
    let unlabelled = || Error::NotLabelled { namespace: "identity".into(), name: "registrar".into() };
    for (error, reason, words) in [
        (missing(), "SecretNotFound", "Secret identity/registrar does not exist"),
        (unlabelled(), "SecretNotLabelled", "dcr-operator.dev/credentials: \"true\""),
    ] {
        let mut observed = discovered();
        observed.finding.metadata = Some(metadata());
        observed.credential = Err(error);
        let rest = plan(&observed, now());
        assert_eq!((rest.step.as_ref(), rest.credentials.reason.as_str(), rest.stalled), (None, reason, false));
        assert!(rest.credentials.message.contains(words), "{}", rest.credentials.message);
        assert!(rest.requeue_after.is_some());
        let status = status::status(&observed, &rest, now());
        assert_eq!(condition(&status.conditions, conditions::READY).unwrap().reason, reason);
    }
    let mut observed = discovered();
    observed.ca_bundle = Err(Error::NotFound { kind: "ConfigMap", namespace: "identity".into(), name: "ca".into() });
    let rest = plan(&observed, now());
    assert_eq!((rest.step, rest.discovery.reason.as_str()), (None, "DiscoveryFailed"));
}

#[test]
fn a_secret_for_tls_is_a_credential_like_any_other() {
    let unlabelled = || Error::NotLabelled { namespace: "identity".into(), name: "mtls".into() };
    let (mut ca, mut certificate) = (discovered(), discovered());
    ca.ca_bundle = Err(unlabelled());
    certificate.client_identity = Err(unlabelled());
    for observed in [ca, certificate] {
        let rest = plan(&observed, now());
        assert_eq!((rest.step.as_ref(), rest.requeue_after.is_some()), (None, true));
        let status = status::status(&observed, &rest, now());
        for type_ in [conditions::CREDENTIALS_VALID, conditions::READY] {
            let condition = condition(&status.conditions, type_).unwrap();
            assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "SecretNotLabelled"));
        }
        assert_eq!(condition(&status.conditions, conditions::DISCOVERY_RESOLVED).unwrap().status, "Unknown");
    }
}

#[test]
fn a_server_without_registration_is_told_with_the_way_out() {
    let mut observed = discovered();
    observed.finding.metadata = Some(ServerMetadata { registration_endpoint: None, ..metadata() });
    let rest = plan(&observed, now());
    assert_eq!((rest.step, rest.discovery.reason.as_str()), (None, "NoRegistrationEndpoint"));
    assert!(rest.discovery.message.contains("spec.endpoints.registration"));
}

#[test]
fn no_endpoint_may_be_http_unless_it_is_allowed() {
    let given = json!({"endpoints": {"token": "https://a/token", "registration": "http://a/reg"}});
    let http = |change: fn(&mut ServerMetadata)| {
        let mut observed = ready();
        change(observed.finding.metadata.as_mut().unwrap());
        observed.finding.complete_at = Some(now());
        observed
    };
    let mut rows = vec![(observed(given), true, vec!["spec.endpoints.registration http://a/reg", "only https://"])];
    let words = vec!["registration_endpoint http://as/reg of", "or set spec.endpoints.registration"];
    rows.push((http(|metadata| metadata.registration_endpoint = Some("http://as/reg".into())), false, words));
    let words = vec!["token_endpoint http://as/token of", "or set spec.endpoints.token"];
    rows.push((http(|metadata| metadata.token_endpoint = Some("http://as/token".into())), false, words));
    let words = vec!["jwks_uri http://as/jwks of", "have it corrected there"];
    rows.push((http(|metadata| metadata.jwks_uri = Some("http://as/jwks".into())), false, words));
    for (mut observed, is_stalled, words) in rows {
        let rest = plan(&observed, now());
        assert_eq!((rest.step.as_ref(), rest.discovery.reason.as_str()), (None, "InvalidEndpoint"), "{words:?}");
        for word in &words {
            assert!(rest.discovery.message.contains(word), "{}", rest.discovery.message);
        }
        assert_eq!((rest.stalled, rest.requeue_after.is_some()), (is_stalled, !is_stalled), "{words:?}");
        let status = status::status(&observed, &rest, now());
        assert_eq!(condition(&status.conditions, conditions::READY).unwrap().reason, "InvalidEndpoint");
        if !is_stalled {
            assert_eq!(plan(&observed, at(NOW + 60)).step, Some(discover_as()), "the server may have been mended");
        }
        observed.allow_insecure_http = true;
        assert_ne!(plan(&observed, now()).discovery.reason, "InvalidEndpoint", "{words:?}");
    }
}

#[test]
fn a_failed_call_is_repeated_when_its_time_has_come_unless_only_a_change_helps() {
    for (step, call) in [(FailedStep::Discovery, discover_as()), (FailedStep::Token, obtain())] {
        let mut observed = discovered();
        if step == FailedStep::Token {
            observed.finding.metadata = Some(metadata());
        }
        observed.finding.failure = Some(failure(step, true));
        observed.not_before = Some(at(NOW + 5));
        let waiting = plan(&observed, now());
        assert_eq!((waiting.step, waiting.requeue_after), (None, Some(Duration::from_secs(5))), "{step:?}");
        assert_eq!(plan(&observed, at(NOW + 5)).step, Some(call), "{step:?}");

        observed.finding.failure = Some(failure(step, false));
        let stalled = plan(&observed, at(NOW + 500));
        assert_eq!((stalled.step, stalled.stalled), (None, true), "{step:?}");
    }
}

#[test]
fn an_outage_does_not_take_the_known_endpoints_away() {
    let mut observed = ready();
    observed.profile.status = Some(status::status(&observed, &plan(&observed, now()), now()));
    observed.finding = observe::Finding { failure: Some(failure(FailedStep::Discovery, true)), ..Default::default() };
    observed.not_before = Some(at(NOW + 5));
    let plan = plan(&observed, now());
    let status = status::status(&observed, &plan, now());
    assert_eq!(status.registration_endpoint.as_deref(), Some("https://as/reg"));
    let ready = condition(&status.conditions, conditions::READY).unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "ServerUnavailable"));
    assert!(condition(&status.conditions, conditions::RECONCILING).is_some());
}

#[test]
fn the_endpoints_of_another_issuer_are_not_kept() {
    let mut observed = ready();
    observed.profile.status = Some(status::status(&observed, &plan(&observed, now()), now()));
    observed.profile.spec.issuer = Some("https://other".into());
    observed.finding = observe::Finding::default();
    assert_eq!(plan(&observed, now()).endpoints.registration, None);
}

#[test]
fn a_suspended_profile_makes_no_call_and_says_so() {
    let mut observed = observed(json!({"issuer": "https://as", "suspend": true}));
    observed.finding.failure = Some(failure(FailedStep::Discovery, true));
    let plan = plan(&observed, now());
    assert_eq!((plan.step.as_ref(), plan.requeue_after), (None, None));
    let status = status::status(&observed, &plan, now());
    assert_eq!(condition(&status.conditions, conditions::READY).unwrap().reason, "Suspended");

    // One that was Ready stays that, with the endpoints of then.
    let mut observed = ready();
    observed.profile.status = Some(status::status(&observed, &plan_of(&observed), now()));
    observed.profile.spec.suspend = true;
    observed.profile.spec.issuer = Some("https://other".into());
    observed.profile.metadata.generation = Some(2);
    observed.finding = observe::Finding::default();
    let status = status::status(&observed, &plan_of(&observed), now());
    assert_eq!((status.observed_generation, status.issuer.as_deref()), (Some(2), Some("https://as")));
    assert_eq!(status.registration_endpoint.as_deref(), Some("https://as/reg"));
    assert_eq!(condition(&status.conditions, conditions::READY).unwrap().status, "True");
}

#[test]
fn what_a_server_says_anew_each_time_wakes_no_client() {
    let digest = |message: &str, at: FailedStep| {
        let mut failing = discovered();
        failing.finding.failure = Some(Failure { message: message.into(), ..failure(at, true) });
        failing.finding.metadata = (at == FailedStep::Token).then(metadata);
        failing.profile.status = Some(status::status(&failing, &plan_of(&failing), now()));
        crate::token_profile::digest(&failing.profile)
    };
    let one = digest("refused, trace 1", FailedStep::Token);
    assert_eq!(one, digest("refused, trace 2", FailedStep::Token));
    assert_ne!(one, digest("refused, trace 1", FailedStep::Discovery), "other endpoints");
}

#[test]
fn a_bearer_token_that_says_when_it_ends_is_believed() {
    let token = |exp: i64| {
        use base64::Engine as _;
        let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json!({"exp": exp}).to_string());
        let mut observed = discovered();
        observed.finding.metadata = Some(metadata());
        observed.credential = Ok(Credential::BearerToken(format!("e30.{payload}.sig").into()));
        observed
    };
    let valid = plan(&token(NOW + 60), now());
    assert_eq!((valid.token_expires_at, valid.requeue_after), (Some(at(NOW + 60)), Some(Duration::from_mins(1))));
    assert!(valid.credentials.is_true());
    let expired = plan(&token(NOW), now());
    assert_eq!(expired.credentials.reason, "TokenRequestRejected");
    assert!(expired.credentials.message.contains("put a new one there"), "{}", expired.credentials.message);
}
