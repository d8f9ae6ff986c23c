use dcr_operator::dcr::{Error, KeyAlgorithm, KeyPair};
use dcr_operator::retry::Retry;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::secret;

const ALL: [KeyAlgorithm; 3] = [KeyAlgorithm::ES256, KeyAlgorithm::RS256, KeyAlgorithm::EdDSA];

fn read(pem: &str) -> Result<KeyPair, Error> {
    KeyPair::from_pem(&secret(pem), None)
}

#[test]
fn a_pair_that_was_stored_is_the_same_pair() {
    for algorithm in ALL {
        let made = KeyPair::generate(algorithm).unwrap();
        let read = KeyPair::from_pem(made.private_key_pem(), None).unwrap();
        assert_eq!(read.algorithm(), algorithm);
        assert_eq!(read.private_key_pem().expose_secret(), made.private_key_pem().expose_secret());
        assert_eq!((read.kid(), read.public_jwk()), (made.kid(), made.public_jwk()));
        assert_ne!(KeyPair::generate(algorithm).unwrap().kid(), made.kid());
    }
}

#[test]
fn the_public_key_says_what_it_is_for_and_has_no_private_member() {
    for (algorithm, name, members) in [
        (KeyAlgorithm::ES256, "ES256", vec!["alg", "crv", "kid", "kty", "use", "x", "y"]),
        (KeyAlgorithm::RS256, "RS256", vec!["alg", "e", "kid", "kty", "n", "use"]),
        (KeyAlgorithm::EdDSA, "EdDSA", vec!["alg", "crv", "kid", "kty", "use", "x"]),
    ] {
        let pair = KeyPair::generate(algorithm).unwrap();
        let jwk = pair.public_jwk();
        assert_eq!(jwk.keys().collect::<Vec<_>>(), members);
        assert_eq!((&jwk["alg"], &jwk["use"], &jwk["kid"]), (&json!(name), &json!("sig"), &json!(pair.kid())));
    }
}

#[test]
fn a_key_is_known_by_its_thumbprint_unless_it_has_a_name() {
    // The key of RFC 8037, appendix A.1, and its thumbprint of A.3.
    let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
    let pair = read(pem).unwrap();
    assert_eq!(pair.kid(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    assert_eq!(pair.public_jwk()["x"], "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");

    let named = KeyPair::from_pem(&secret(pem), Some("2026-11".to_owned())).unwrap();
    assert_eq!((named.kid(), &named.public_jwk()["kid"]), ("2026-11", &Value::from("2026-11")));
}

/// rcgen writes the second version of PKCS #8, with the public key.
#[test]
fn keys_that_other_programs_made_are_read() {
    for (made_by, algorithm) in
        [(&rcgen::PKCS_ECDSA_P256_SHA256, KeyAlgorithm::ES256), (&rcgen::PKCS_ED25519, KeyAlgorithm::EdDSA)]
    {
        let pem = rcgen::KeyPair::generate_for(made_by).unwrap().serialize_pem();
        for pem in [format!("# a comment\n{pem}"), pem.replace('\n', "\r\n")] {
            let pair = read(&pem).unwrap();
            assert_eq!(pair.algorithm(), algorithm);
            assert_eq!(KeyPair::from_pem(pair.private_key_pem(), None).unwrap().kid(), pair.kid());
        }
    }
}

#[test]
fn what_is_no_key_to_sign_with_is_refused_with_the_way_out() {
    let pem = KeyPair::generate(KeyAlgorithm::ES256).unwrap().private_key_pem().expose_secret().to_owned();
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    for (pem, why) in [
        ("", "there is no PEM block \"PRIVATE KEY\" in it"),
        ("not PEM", "there is no PEM block \"PRIVATE KEY\" in it"),
        (&p384.public_key_pem(), "there is no PEM block \"PRIVATE KEY\" in it"),
        ("-----BEGIN PRIVATE KEY-----\n%%%\n-----END PRIVATE KEY-----\n", "it is not PEM"),
        (&pem.repeat(2), "there is more than one private key in it"),
        (&pem.replace("PRIVATE", "ENCRYPTED PRIVATE"), "it is encrypted"),
        (&pem.replace("PRIVATE", "EC PRIVATE"), "it is not in PKCS #8; `openssl pkcs8 -topk8 -nocrypt` makes it so"),
        (&p384.serialize_pem(), "it is no key of the curve P-256, no Ed25519 key, and no RSA key of 2048 to 8192 bits"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "it is no key of the curve P-256"),
    ] {
        let error = read(pem).unwrap_err();
        assert!(error.to_string().starts_with(&format!("the private key cannot be used: {why}")), "{error}");
        assert_eq!((error.reason(), error.retry()), ("InvalidPrivateKey", Retry::OnChange));
    }
}

#[test]
fn a_pair_shows_no_private_key() {
    for algorithm in ALL {
        let pair = KeyPair::generate(algorithm).unwrap();
        let shown = format!("{pair:?} {pair:#?}");
        assert!(shown.contains(pair.kid()), "{shown}");
        let pem = pair.private_key_pem().expose_secret();
        assert!(pem.lines().all(|line| !shown.contains(line)), "{shown}");
        let public = Value::from(pair.public_jwk().clone()).to_string();
        assert!(pem.lines().filter(|line| line.len() > 40).all(|line| !public.contains(line)));
    }
}
