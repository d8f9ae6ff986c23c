/**
 * The application a client is registered for: sends its user through the authorization code flow, uses the tokens and
 * refreshes them. Tells what it got, never a token or a secret.
 *
 * Environment:
 *   ISSUER, CLIENT_ID, REDIRECT_URI
 *   CLIENT_SECRET               absent for a public client; for private_key_jwt the key (PKCS #8, PEM)
 *   TOKEN_ENDPOINT_AUTH_METHOD  default client_secret_basic, or none without a secret
 *   SCOPE                       default openid
 *   LOGIN_HINT                  who logs in
 */
import { createPrivateKey } from 'node:crypto';

import * as oauth from 'openid-client';

const MAX_REDIRECTS = 10;
const LOOPBACK = ['127.0.0.1', 'localhost', '[::1]'];

/** How a private key signs. */
const SIGNATURES = {
  ec: { name: 'ECDSA', namedCurve: 'P-256' },
  ed25519: { name: 'Ed25519' },
  rsa: { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' },
};

async function privateKeyJwt(pem) {
  const key = createPrivateKey(pem);
  const der = key.export({ type: 'pkcs8', format: 'der' });
  const algorithm = SIGNATURES[key.asymmetricKeyType];
  const signer = await crypto.subtle.importKey('pkcs8', der, algorithm, false, ['sign']);
  return oauth.PrivateKeyJwt(signer, {
    // The newer name of the algorithm is not the one that the client has registered.
    [oauth.modifyAssertion]: (header) => {
      if (header.alg === 'Ed25519') header.alg = 'EdDSA';
    },
  });
}

const AUTHENTICATION = {
  client_secret_basic: oauth.ClientSecretBasic,
  client_secret_post: oauth.ClientSecretPost,
  client_secret_jwt: oauth.ClientSecretJwt,
  private_key_jwt: privateKeyJwt,
  none: oauth.None,
};

function required(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set`);
  return value;
}

async function discover() {
  const { CLIENT_SECRET: secret, TOKEN_ENDPOINT_AUTH_METHOD: method = secret ? 'client_secret_basic' : 'none' } =
    process.env;
  const issuer = new URL(required('ISSUER'));
  const authenticate = AUTHENTICATION[method];
  if (!authenticate) throw new Error(`TOKEN_ENDPOINT_AUTH_METHOD ${method} is not known here`);

  // The signature of the ID token is checked too, though it came straight from the token endpoint.
  const execute = [oauth.enableNonRepudiationChecks];
  if (LOOPBACK.includes(issuer.hostname)) execute.push(oauth.allowInsecureRequests);
  return oauth.discovery(issuer, required('CLIENT_ID'), undefined, await authenticate(secret), { execute });
}

/** What a browser keeps between the pages of one site. */
class CookieJar {
  #cookies = new Map();

  keep(response) {
    for (const cookie of response.headers.getSetCookie()) {
      const [, name, value] = /^([^=]+)=([^;]*)/.exec(cookie);
      if (value) this.#cookies.set(name, value);
      else this.#cookies.delete(name);
    }
  }

  toString() {
    return [...this.#cookies].map(([name, value]) => `${name}=${value}`).join('; ');
  }
}

/** Goes where the browser would be sent, until that is the application. */
async function browse(start, redirectUri) {
  const jar = new CookieJar();
  const arrived = ({ origin, pathname }) => origin === redirectUri.origin && pathname === redirectUri.pathname;

  let url = start;
  for (let hops = 0; hops < MAX_REDIRECTS; hops += 1) {
    if (url.origin !== start.origin) throw new Error(`redirected to ${url.origin}, which is not the authorization server`);

    const response = await fetch(url, { redirect: 'manual', headers: { accept: 'application/json', cookie: `${jar}` } });
    const location = response.headers.get('location');
    if (!location) throw new Error(`${url.pathname} answered ${response.status}: ${(await response.text()).slice(0, 300)}`);

    jar.keep(response);
    url = new URL(location, url);
    if (arrived(url)) return url;
  }
  throw new Error(`${MAX_REDIRECTS} redirects did not lead to ${redirectUri}`);
}

async function run() {
  const { SCOPE: scope = 'openid', LOGIN_HINT: loginHint } = process.env;
  const redirectUri = new URL(required('REDIRECT_URI'));
  const config = await discover();

  const pkceCodeVerifier = oauth.randomPKCECodeVerifier();
  const expectedState = oauth.randomState();
  const expectedNonce = oauth.randomNonce();
  const authorizationUrl = oauth.buildAuthorizationUrl(config, {
    redirect_uri: process.env.REDIRECT_URI,
    scope,
    code_challenge: await oauth.calculatePKCECodeChallenge(pkceCodeVerifier),
    code_challenge_method: 'S256',
    state: expectedState,
    nonce: expectedNonce,
    ...(loginHint && { login_hint: loginHint }),
  });

  const tokens = await oauth.authorizationCodeGrant(config, await browse(authorizationUrl, redirectUri), {
    pkceCodeVerifier,
    expectedState,
    expectedNonce,
    idTokenExpected: true,
  });
  const claims = tokens.claims();

  const userinfo = config.serverMetadata().userinfo_endpoint
    ? await oauth.fetchUserInfo(config, tokens.access_token, claims.sub)
    : null;

  if (tokens.refresh_token) await oauth.refreshTokenGrant(config, tokens.refresh_token);

  return {
    id_token_claims: claims,
    userinfo,
    refreshed: Boolean(tokens.refresh_token),
    scope: tokens.scope ?? scope,
  };
}

/** An error of openid-client says little itself; the server's own words are beside or beneath it. */
function explain(error) {
  const challenge = error.cause?.[0]?.parameters;
  const parts = [error, challenge, error.cause].flatMap((from) => [from?.message, from?.error, from?.error_description]);
  return [...new Set(parts.filter(Boolean))].join(': ').replaceAll(/\s+/g, ' ');
}

try {
  console.log(JSON.stringify(await run()));
} catch (error) {
  console.error(explain(error));
  process.exitCode = 1;
}
