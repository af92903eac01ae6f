//! Client transactions other than INVITE (RFC 3261 section 17.1.2): BYE, NOTIFY, REFER, UPDATE.

use bytes::Bytes;

use super::{ClientId, Event, Flow, Guard, Layer, Millis, Owner, T1, T2, T4};
use crate::{Request, Response};

pub(super) struct Client<F> {
    flow: F,
    bytes: Bytes,
    guard: Option<Guard>,
    branch: String,
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
    /// Sends a request. Its topmost Via carries a branch that was never used before; it is refused (`None`) when
    /// the table is full.
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
        let deadline = now + 64 * T1; // timer F
        let due = if flow.reliable() { deadline } else { now + T1 };
        let client = Client {
            flow,
            bytes: request.to_bytes(),
            guard,
            branch: branch.clone(),
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

    /// A response arrived. One that answers nothing of ours is dropped.
    pub fn response_received(&mut self, response: Response, now: Millis) -> Vec<Event<F>> {
        let branch = response.headers.top_via().and_then(|v| v.branch());
        let Some(id) = branch.and_then(|b| self.branches.get(b)).copied() else { return Vec::new() };
        let Some(client) = self.clients.get_mut(&id) else { return Vec::new() };
        match client.state {
            State::Completed => return Vec::new(),
            _ if response.is_provisional() => client.state = State::Proceeding,
            _ if client.flow.reliable() => self.close_client(id),
            _ => {
                client.state = State::Completed;
                client.bytes = Bytes::new();
                client.due = now + T4; // timer K
                let due = client.due;
                self.arm(due, Owner::Client(id));
            }
        }
        vec![Event::Response(id, response)]
    }

    /// Gives a request up: its guard refused, or its flow is gone.
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
            client.interval = match client.state {
                State::Proceeding => T2,
                _ => (client.interval * 2).min(T2),
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
}
