//! Client transactions (RFC 3261 section 17.1, with the Accepted state of RFC 6026): BYE, NOTIFY, REFER, UPDATE, and
//! INVITE within a dialog. This module sends the ACK of a refusal. The user creates the ACK of a `2xx` and passes it to
//! [`Layer::acknowledge`], which also repeats it.

use bytes::Bytes;

use super::{ClientId, Event, Flow, Guard, Layer, Millis, Owner, T1, T2, T4, send};
use crate::{Headers, Method, Request, Response};

/// Timeout of an INVITE after a provisional response, in milliseconds (as timer C, section 16.6).
const RINGING: Millis = 180_000;

pub(super) struct Client<F> {
    flow: F,
    bytes: Bytes,
    guard: Option<Guard>,
    branch: String,
    /// The INVITE, needed for the ACK of its refusal.
    invite: Option<Request>,
    /// The ACK of the final response, repeated for each copy of the response.
    ack: Option<(F, Bytes)>,
    state: State,
    due: Millis,
    interval: Millis,
    deadline: Millis,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Trying,
    Proceeding,
    Completed,
}

impl<F: Flow> Layer<F> {
    /// Sends a request. Its topmost Via must carry an unused branch. Returns `None` if the table is full.
    pub fn request(
        &mut self,
        request: &Request,
        flow: F,
        guard: Option<Guard>,
        now: Millis,
    ) -> Option<(ClientId, Vec<Event<F>>)> {
        if self.clients.len() >= self.capacity {
            return None;
        }
        let branch = request.headers.top_via()?.branch()?.to_owned();
        self.next += 1;
        let id = ClientId(self.next);
        let deadline = now + 64 * T1; // timers B and F
        let due = if flow.reliable() { deadline } else { now + T1 };
        let client = Client {
            flow,
            bytes: request.to_bytes(),
            guard,
            branch: branch.clone(),
            invite: (request.method == Method::Invite).then(|| request.clone()),
            ack: None,
            state: State::Trying,
            due,
            interval: T1,
            deadline,
        };
        let events = vec![client.transmit(id)];
        self.branches.insert(branch, id);
        self.clients.insert(id, client);
        self.arm(due, Owner::Client(id));
        Some((id, events))
    }

    /// Handles a received response. Drops a response that belongs to no transaction.
    pub fn response_received(&mut self, response: Response, now: Millis) -> Vec<Event<F>> {
        let branch = response.headers.top_via().and_then(|v| v.branch());
        let Some(id) = branch.and_then(|b| self.branches.get(b)).copied() else { return Vec::new() };
        let Some(client) = self.clients.get_mut(&id) else { return Vec::new() };
        let mut events = Vec::new();
        if client.state == State::Completed {
            if !response.is_provisional() {
                events.extend(client.ack.clone().map(|(flow, bytes)| send(flow, bytes)));
            }
            return events;
        }
        let reliable = client.flow.reliable();
        let stays = match &client.invite {
            Some(_) if response.is_provisional() => {
                (client.state, client.deadline) = (State::Proceeding, now + RINGING);
                Some(client.deadline)
            }
            None if response.is_provisional() => {
                client.state = State::Proceeding;
                Some(client.due)
            }
            // Timer M: copies of a `2xx` come over every transport.
            Some(_) if response.is_success() => client.complete(now + 64 * T1),
            Some(invite) => {
                let ack = (client.flow.clone(), acknowledgement(invite, &response).to_bytes());
                events.push(send(ack.0.clone(), ack.1.clone()));
                client.ack = Some(ack);
                if reliable { None } else { client.complete(now + 64 * T1) } // timer D
            }
            None if reliable => None,
            None => client.complete(now + T4), // timer K
        };
        match stays {
            None => self.close_client(id),
            Some(due) if due != client.due => {
                client.due = due;
                self.arm(due, Owner::Client(id));
            }
            Some(_) => {}
        }
        events.push(Event::Response(id, response));
        events
    }

    /// Sends the ACK of a `2xx` to an INVITE, and repeats it for each copy of the `2xx`.
    pub fn acknowledge(&mut self, id: ClientId, ack: &Request, flow: F) -> Vec<Event<F>> {
        let bytes = ack.to_bytes();
        if let Some(client) = self.clients.get_mut(&id) {
            client.ack = Some((flow.clone(), bytes.clone()));
        }
        vec![send(flow, bytes)]
    }

    /// Ends a transaction whose guard refused or whose flow is closed.
    pub fn withdraw(&mut self, id: ClientId) -> Vec<Event<F>> {
        match self.clients.get(&id).map(|c| c.state) {
            None | Some(State::Completed) => Vec::new(),
            Some(_) => {
                self.close_client(id);
                vec![Event::Withdrawn(id)]
            }
        }
    }

    pub(super) fn client_timer(&mut self, id: ClientId, due: Millis, now: Millis, out: &mut Vec<Event<F>>) {
        let Some(client) = self.clients.get_mut(&id).filter(|c| c.due == due) else { return };
        if client.state == State::Completed {
            self.close_client(id);
        } else if now >= client.deadline {
            self.close_client(id);
            out.push(Event::TimedOut(id));
        } else {
            client.interval = match (client.state, &client.invite) {
                (State::Proceeding, _) => T2,
                // Timer A (section 17.1.1.2) has no limit except timer B.
                (_, Some(_)) => client.interval * 2,
                // Timer E (section 17.1.2.2).
                (_, None) => (client.interval * 2).min(T2),
            };
            client.due = (now + client.interval).min(client.deadline);
            out.push(client.transmit(id));
            let due = client.due;
            self.arm(due, Owner::Client(id));
        }
    }

    fn close_client(&mut self, id: ClientId) {
        if let Some(client) = self.clients.remove(&id) {
            self.branches.remove(&client.branch);
        }
    }
}

impl<F: Flow> Client<F> {
    fn transmit(&self, id: ClientId) -> Event<F> {
        let guard = self.guard.clone().map(|g| (g, id));
        Event::Send { flow: self.flow.clone(), bytes: self.bytes.clone(), guard }
    }

    /// Handles a final response: absorbs its copies until the given time.
    fn complete(&mut self, until: Millis) -> Option<Millis> {
        (self.state, self.bytes, self.invite) = (State::Completed, Bytes::new(), None);
        Some(until)
    }
}

/// The ACK of a response other than `2xx` (section 17.1.1.3).
fn acknowledgement(invite: &Request, response: &Response) -> Request {
    let mut headers = Headers::default();
    for name in ["Via", "Max-Forwards", "Route", "From", "Call-ID"] {
        for value in invite.headers.all(name) {
            headers.push(name, value);
        }
    }
    headers.push("To", response.headers.get("To").unwrap_or_default());
    headers.push("CSeq", format!("{} ACK", invite.headers.cseq()));
    Request { method: Method::Ack, uri: invite.uri.clone(), headers, body: Bytes::new() }
}
