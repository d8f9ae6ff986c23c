/**
 * A token service that registers clients, for the tests: the registrar gets an initial access token by the client
 * credentials grant with the scope `dcr`, and that token serves for one registration.
 *
 * Environment:
 *   PORT                         0 or absent: a free one
 *   TLS_CERT, TLS_KEY            PEM files; both given: https
 *   TLS_CLIENT_CA                PEM file: who signs the certificate of the client `server-certificate` (tls_client_auth),
 *                                whose subject is CN=operator
 *   ISSUER                       default: the address listened on
 *   REGISTRAR_SECRET             of the clients `server` (client_secret_basic) and `server-post` (client_secret_post)
 *   REGISTRAR_JWKS               the public keys of the client `server-key` (private_key_jwt), as a JSON Web Key Set
 *   CLIENT_SECRET_TTL            seconds until the secrets end of clients that are registered with a registrar's token;
 *                                they are accepted 15 seconds longer
 *   INITIAL_ACCESS_TOKEN_TTL     seconds, default 300
 *   STATIC_INITIAL_ACCESS_TOKEN  a token that registers any number of clients
 *   OPEN_REGISTRATION=1          no token is needed
 *   UNMANAGED=1                  answers carry no registration access token: clients are never read or changed again
 *   STORE                        a file that keeps clients and tokens from one run to the next
 *   EXIT_WITH_STDIN=1            ends when standard input does
 *
 * Once ready it prints one line: {"issuer": …, "control": …}. At the control address:
 *   GET  /clients              the registered clients as stored
 *   GET  /registrations        every client that was ever registered: {client_id, client_name, registered_at (seconds since
 *                              1970), is_deleted}
 *   GET  /requests             counters; `register` counts clients made, `registerRefused` the refusals,
 *                              the others every request whatever its answer
 *   PATCH /clients/{id}        changes members of a client; null removes one
 *   POST /clients/{id}/forget  loses a client and its registration access tokens
 *   POST /clients/{id}/forget-token  loses its registration access tokens alone
 *   POST /registrar-secret     the body is the registrar's new secret
 */
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { json, text } from 'node:stream/consumers';

import Provider, { errors } from 'oidc-provider';

import { createStorage } from './storage.mjs';

const { env } = process;
const HOST = '127.0.0.1';
const REGISTRAR_SCOPE = 'dcr';
const REGISTRARS = { server: 'client_secret_basic', 'server-post': 'client_secret_post' };
const CERTIFICATE_SUBJECT = 'CN=operator';
const ENDING_SECRET = 'ending-secret';

// The package writes notices to standard output, which belongs to the line that tells we are ready.
console.info = () => {};

const storage = createStorage(env.STORE);

const requests = {
  token: 0,
  register: 0,
  registerRefused: 0,
  read: 0,
  update: 0,
  delete: 0,
  initialTokensIssued: 0,
  initialTokensReused: 0,
};

const isRegistrarScope = (scope) => String(scope).split(' ').includes(REGISTRAR_SCOPE);

const signingKey = (type, options) => ({
  ...generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' }),
  use: 'sig',
});

function registrars() {
  const secret = env.REGISTRAR_SECRET || 'server-secret';
  const clients = Object.entries(REGISTRARS).map(([id, method]) => ({
    client_id: id,
    client_secret: secret,
    token_endpoint_auth_method: method,
  }));
  if (env.REGISTRAR_JWKS) {
    const jwks = JSON.parse(env.REGISTRAR_JWKS);
    clients.push({ client_id: 'server-key', token_endpoint_auth_method: 'private_key_jwt', jwks });
  }
  if (env.TLS_CLIENT_CA) {
    clients.push({
      client_id: 'server-certificate',
      token_endpoint_auth_method: 'tls_client_auth',
      tls_client_auth_subject_dn: CERTIFICATE_SUBJECT,
    });
  }
  return clients.map((client) => ({
    ...client,
    grant_types: ['client_credentials'],
    response_types: [],
    redirect_uris: [],
    scope: REGISTRAR_SCOPE,
  }));
}

function configuration() {
  const hour = 3600;
  return {
    adapter: storage,
    jwks: {
      keys: [
        signingKey('rsa', { modulusLength: 2048 }),
        signingKey('ec', { namedCurve: 'P-256' }),
      ],
    },
    cookies: { keys: [randomBytes(32).toString('base64url')] },
    clients: registrars(),
    clientAuthMethods: [
      'client_secret_basic',
      'client_secret_post',
      'client_secret_jwt',
      'private_key_jwt',
      'tls_client_auth',
      'none',
    ],
    scopes: ['openid', 'profile', 'email', 'offline_access', REGISTRAR_SCOPE],
    claims: { openid: ['sub'], profile: ['name'], email: ['email', 'email_verified'] },
    acrValues: ['urn:example:authentication:password', 'urn:example:authentication:one-time-code'],
    clientDefaults: {
      grant_types: ['authorization_code', 'refresh_token'],
      // A client without a scope could ask for any, the registrar's included.
      scope: 'openid profile email offline_access',
    },
    extraClientMetadata: {
      properties: ['scope'],
      validator(ctx, name, value) {
        // There is no request when a stored or a configured client is loaded.
        if (ctx && isRegistrarScope(value)) {
          throw new errors.InvalidClientMetadata(`scope must not contain ${REGISTRAR_SCOPE}`);
        }
      },
    },
    pkce: { required: () => true },
    renderError(ctx, answer) {
      ctx.body = answer;
    },
    issueRefreshToken: async (ctx, client) => client.grantTypeAllowed('refresh_token'),
    findAccount: (ctx, sub) => ({
      accountId: sub,
      claims: () => ({
        sub,
        name: sub[0].toUpperCase() + sub.slice(1),
        email: `${sub}@example.com`,
        email_verified: true,
      }),
    }),
    interactions: { url: (ctx, { uid }) => `/interaction/${uid}` },
    ttl: {
      AccessToken: hour,
      AuthorizationCode: 60,
      ClientCredentials: Number(env.INITIAL_ACCESS_TOKEN_TTL || 300),
      Grant: 24 * hour,
      IdToken: hour,
      Interaction: hour,
      RefreshToken: 24 * hour,
      Session: 24 * hour,
    },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      introspection: { enabled: true },
      mTLS: {
        enabled: true,
        tlsClientAuth: true,
        getCertificate: ({ req }) => req.socket.getPeerX509Certificate?.()?.toString(),
        certificateAuthorized: ({ req }) => req.socket.authorized,
        certificateSubjectMatches: ({ req }, property, expected) =>
          property === 'tls_client_auth_subject_dn' && req.socket.getPeerX509Certificate().subject === expected,
      },
      registration: {
        enabled: true,
        initialAccessToken: env.OPEN_REGISTRATION !== '1',
        issueRegistrationAccessToken: env.UNMANAGED !== '1',
        // They need initial access tokens, which open registration has not.
        policies: env.CLIENT_SECRET_TTL && {
          [ENDING_SECRET](ctx, properties) {
            // An update keeps the secret, and with it the end.
            if (ctx.method !== 'POST' || !properties.client_secret) return;
            properties.client_secret_expires_at = Math.floor(Date.now() / 1000) + Number(env.CLIENT_SECRET_TTL);
          },
        },
      },
      registrationManagement: { enabled: true, rotateRegistrationAccessToken: true },
      revocation: { enabled: true },
    },
  };
}

function countRequests(provider) {
  const registration = provider.pathFor('registration');
  const management = { GET: 'read', PUT: 'update', DELETE: 'delete' };

  provider.on('registration_create.success', (ctx, { clientId }) => {
    const { client_name: name } = storage('Client').get(clientId);
    storage('Registration').upsert(clientId, { client_id: clientId, client_name: name, registered_at: Date.now() / 1000 });
  });
  provider.on('client_credentials.saved', (token) => {
    if (isRegistrarScope(token.scope)) requests.initialTokensIssued += 1;
  });

  return async (ctx, next) => {
    await next();
    if (ctx.path.startsWith(`${registration}/`) && ctx.method in management) {
      requests[management[ctx.method]] += 1;
    } else if (ctx.method === 'POST' && ctx.path === registration) {
      requests[ctx.status === 201 ? 'register' : 'registerRefused'] += 1;
    } else if (ctx.method === 'POST' && ctx.path === provider.pathFor('token')) {
      requests.token += 1;
    }
  };
}

/** oidc-provider's initial access tokens register any number of clients; the registrar's are good for one attempt. */
function spendInitialAccessToken(provider) {
  const spent = storage('SpentInitialAccessToken');

  return async (ctx, next) => {
    if (ctx.method !== 'POST' || ctx.path !== provider.pathFor('registration')) return next();

    const [, presented] = /^bearer ([^ ]+)$/i.exec(ctx.get('authorization')) ?? [];
    if (presented && spent.get(presented)) {
      requests.initialTokensReused += 1;
      console.error('an initial access token was sent twice');
    }

    const taken = storage('ClientCredentials').take(presented, ({ scope }) => isRegistrarScope(scope));
    if (!taken) return next();

    await spent.upsert(presented, {});
    const policies = env.CLIENT_SECRET_TTL && { policies: [ENDING_SECRET] };
    const substitute = new provider.InitialAccessToken({ expiresIn: 60, ...policies });
    ctx.req.headers.authorization = `Bearer ${await substitute.save()}`;
    try {
      return await next();
    } finally {
      await substitute.destroy();
    }
  };
}

/** Logs the user in and grants what the client asks for, showing no page. */
function logInWithoutAsking(provider) {
  return async (ctx, next) => {
    if (ctx.method !== 'GET' || !ctx.path.startsWith('/interaction/')) return next();

    const { params, prompt, session } = await provider.interactionDetails(ctx.req, ctx.res);
    const accountId = params.login_hint || session?.accountId || 'alice';
    const grant = new provider.Grant({ accountId, clientId: params.client_id });
    grant.addOIDCScope(params.scope);
    if (prompt.details.missingOIDCClaims) grant.addOIDCClaims(prompt.details.missingOIDCClaims);

    const result = {
      login: { accountId, acr: params.acr_values?.split(' ')[0] },
      consent: { grantId: await grant.save() },
    };
    ctx.status = 303;
    ctx.redirect(await provider.interactionResult(ctx.req, ctx.res, result));
  };
}

function createControl(provider) {
  const clients = storage('Client');
  const registrationAccessTokens = storage('RegistrationAccessToken');

  const actions = {
    'GET /clients': () => clients.values(),
    'GET /registrations': () => {
      const known = storage('Registration');
      // One that was killed before it answered may have stored a client and nothing else.
      const unanswered = clients.values().filter((client) => !known.get(client.client_id));
      return [
        ...known.values().map((client) => ({ ...client, is_deleted: !clients.get(client.client_id) })),
        ...unanswered.map((client) => ({ ...client, registered_at: client.client_id_issued_at, is_deleted: false })),
      ];
    },
    'GET /requests': () => requests,
    'PATCH /clients/{id}': async (req, id) => {
      const client = clients.get(id);
      if (!client) return null;
      for (const [name, value] of Object.entries(await json(req))) {
        if (value === null) delete client[name];
        else client[name] = value;
      }
      return client;
    },
    'POST /clients/{id}/forget': (req, id) => {
      clients.deleteWhere(({ client_id: clientId }) => clientId === id);
      registrationAccessTokens.deleteWhere(({ clientId }) => clientId === id);
    },
    'POST /clients/{id}/forget-token': (req, id) => {
      registrationAccessTokens.deleteWhere(({ clientId }) => clientId === id);
    },
    'POST /registrar-secret': async (req) => {
      const secret = (await text(req)).trim();
      for (const id of Object.keys(REGISTRARS)) {
        (await provider.Client.find(id)).clientSecret = secret;
      }
    },
  };

  return http.createServer(async (req, res) => {
    const [, collection, id, verb] = req.url.split('/');
    const path = ['', collection, id && '{id}', verb].filter((part) => part !== undefined).join('/');
    const action = actions[`${req.method} ${path}`];
    if (!action) return res.writeHead(404).end();

    const answer = await action(req, id);
    if (answer === undefined) return res.writeHead(204).end();
    if (answer === null) return res.writeHead(404).end();
    return res.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(answer));
  });
}

async function listen(server, port) {
  server.listen(port, HOST);
  await once(server, 'listening');
  return server.address().port;
}

const settings = configuration();
const secure = Boolean(env.TLS_CERT && env.TLS_KEY);
const server = secure
  ? https.createServer({
      cert: readFileSync(env.TLS_CERT),
      key: readFileSync(env.TLS_KEY),
      // Nobody needs a certificate but the client that authenticates with one.
      ...(env.TLS_CLIENT_CA && { ca: readFileSync(env.TLS_CLIENT_CA), requestCert: true, rejectUnauthorized: false }),
    })
  : http.createServer();

// The issuer holds the port, which is known only now; nothing below waits until requests can be answered.
const port = await listen(server, Number(env.PORT || 0));
const issuer = env.ISSUER || `${secure ? 'https' : 'http'}://${HOST}:${port}`;

const provider = new Provider(issuer, settings);
provider.use(countRequests(provider));
provider.use(spendInitialAccessToken(provider));
provider.use(logInWithoutAsking(provider));
provider.on('server_error', (ctx, error) => console.error(error));
server.on('request', provider.callback());

if (env.STATIC_INITIAL_ACCESS_TOKEN) {
  await new provider.InitialAccessToken({ jti: env.STATIC_INITIAL_ACCESS_TOKEN }).save();
}

const control = `http://${HOST}:${await listen(createControl(provider), 0)}`;

process.once('SIGTERM', () => process.exit());
if (env.EXIT_WITH_STDIN === '1') process.stdin.once('close', () => process.exit()).resume();

console.log(JSON.stringify({ issuer, control }));
