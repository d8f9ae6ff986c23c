import { appendFileSync, existsSync, readFileSync } from 'node:fs';

/**
 * One kind of thing oidc-provider stores (clients, tokens, grants, sessions), as the adapter it asks for.
 * The package's own in-memory adapter forgets clients beyond a thousand; this one forgets only what expired.
 */
class Shelf {
  #entries = new Map();
  #record;

  /** `record(id, entry)` is told of each change; without an entry the thing is gone. */
  constructor(record) {
    this.#record = record;
  }

  /** Puts back what was recorded. */
  restore(id, entry) {
    if (entry) this.#entries.set(id, { ...entry, expires: entry.expires ?? Infinity });
    else this.#entries.delete(id);
  }

  #set(id, entry) {
    this.#record(id, entry);
    this.#entries.set(id, entry);
  }

  #delete(id) {
    if (this.#entries.delete(id)) this.#record(id);
  }

  get(id) {
    const entry = this.#entries.get(id);
    if (entry && entry.expires <= Date.now()) {
      this.#entries.delete(id);
      return undefined;
    }
    return entry?.payload;
  }

  /** Synchronous throughout, so that of several simultaneous callers exactly one gets it. */
  take(id, wanted) {
    const payload = this.get(id);
    if (!payload || !wanted(payload)) return undefined;
    this.#delete(id);
    return payload;
  }

  values() {
    return [...this.#entries.keys()].map((id) => this.get(id)).filter(Boolean);
  }

  deleteWhere(unwanted) {
    for (const [id, { payload }] of this.#entries) {
      if (unwanted(payload)) this.#delete(id);
    }
  }

  async upsert(id, payload, expiresIn) {
    const expires = expiresIn ? Date.now() + expiresIn * 1000 : Infinity;
    this.#set(id, { payload, expires });
  }

  async find(id) {
    return this.get(id);
  }

  async findByUid(uid) {
    return this.values().find((payload) => payload.uid === uid);
  }

  async findByUserCode(userCode) {
    return this.values().find((payload) => payload.userCode === userCode);
  }

  async consume(id) {
    const payload = this.get(id);
    if (payload) payload.consumed = Math.floor(Date.now() / 1000);
  }

  async destroy(id) {
    this.#delete(id);
  }

  async revokeByGrantId(grantId) {
    this.deleteWhere((payload) => payload.grantId === grantId);
  }
}

/**
 * Gives the shelf of a name, always the same one. With a file, every change is in it before it is answered, and a
 * storage that is made anew with it has what the last one had.
 */
export function createStorage(file) {
  const shelves = new Map();
  const storage = (name) => {
    const record = (id, entry) => file && appendFileSync(file, `${JSON.stringify({ name, id, entry })}\n`);
    if (!shelves.has(name)) shelves.set(name, new Shelf(record));
    return shelves.get(name);
  };
  const lines = file && existsSync(file) ? readFileSync(file, 'utf8').split('\n') : [];
  for (const { name, id, entry } of lines.filter(Boolean).map((line) => JSON.parse(line))) {
    storage(name).restore(id, entry);
  }
  return storage;
}
