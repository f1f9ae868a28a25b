// Asking the server, and hearing from it.
export async function ask(path, options = {}) {
  const response = await fetch(path, { credentials: "same-origin", ...options });
  if (response.status === 401) location.reload(); // the session is over: the login page comes
  const body = await response.json().catch(() => ({ reason: response.statusText }));
  if (!response.ok) throw Object.assign(new Error(body.reason), body, { status: response.status });
  return { body, event: response.headers.get("Trackbus-Event") };
}

// Hears what happens from an event on, and with an ident also what only that device does. handlers: by type; cut(bool), when the
// stream breaks and comes back. last() is the event that was heard last, from which another stream goes on.
export function listen(since, ident, handlers, cut) {
  const query = new URLSearchParams();
  if (since) query.set("since", since);
  if (ident) query.set("device", ident);
  const source = new EventSource("/api/events?" + query);
  let last = since;
  source.onopen = () => cut(false);
  source.onerror = () => {
    cut(true);
    if (source.readyState === EventSource.CLOSED) handlers.reset();
  };
  for (const [type, handler] of Object.entries(handlers))
    source.addEventListener(type, (event) => {
      last = event.lastEventId || last;
      handler(event.data ? JSON.parse(event.data) : {});
    });
  return { stop: () => source.close(), last: () => last };
}
