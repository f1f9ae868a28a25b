// Asking the server, and hearing from it.
export async function ask(path, options = {}) {
  const response = await fetch(path, { credentials: "same-origin", ...options });
  if (response.status === 401) location.reload(); // the session is over: the login page comes
  const body = await response.json().catch(() => ({ reason: response.statusText }));
  if (!response.ok) throw Object.assign(new Error(body.reason), body, { status: response.status });
  return { body, event: response.headers.get("Trackbus-Event") };
}

// Listens from an event on. handlers: by type; and cut(bool), when the stream breaks and comes back.
export function listen(since, ident, handlers, cut) {
  const query = new URLSearchParams();
  if (since) query.set("since", since);
  if (ident) query.set("device", ident);
  const source = new EventSource("/api/events?" + query);
  source.onopen = () => cut(false);
  source.onerror = () => {
    cut(true);
    if (source.readyState === EventSource.CLOSED) setTimeout(() => handlers.reset?.(), 3000);
  };
  for (const [type, handler] of Object.entries(handlers))
    source.addEventListener(type, (event) => handler(event.data ? JSON.parse(event.data) : {}));
  return () => source.close();
}
