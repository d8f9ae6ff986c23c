/**
 * One kind of thing oidc-provider stores (clients, tokens, grants, sessions), as the adapter it asks for.
 * The package's own in-memory adapter forgets clients beyond a thousand; this one forgets only what expired.
 */
class Shelf {
  #entries = new Map();

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
    this.#entries.delete(id);
    return payload;
  }

  values() {
    return [...this.#entries.keys()].map((id) => this.get(id)).filter(Boolean);
  }

  deleteWhere(unwanted) {
    for (const [id, { payload }] of this.#entries) {
      if (unwanted(payload)) this.#entries.delete(id);
    }
  }

  async upsert(id, payload, expiresIn) {
    const expires = expiresIn ? Date.now() + expiresIn * 1000 : Infinity;
    this.#entries.set(id, { payload, expires });
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
    this.#entries.delete(id);
  }

  async revokeByGrantId(grantId) {
    this.deleteWhere((payload) => payload.grantId === grantId);
  }
}

/** Gives the shelf of a name, always the same one. */
export function createStorage() {
  const shelves = new Map();
  return (name) => {
    if (!shelves.has(name)) shelves.set(name, new Shelf());
    return shelves.get(name);
  };
}
