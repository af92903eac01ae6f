//! Server transactions (RFC 3261 section 17.2, with the Accepted state of RFC 6026).

use bytes::Bytes;

use super::{Event, Flow, Layer, Millis, Owner, ServerId, T1, T2, T4, TRYING_AFTER, send};
use crate::{Method, Request, Response};

/// Timeout of an INVITE without a final response, in milliseconds (as timer C, section 16.6).
const UNANSWERED: Millis = 180_000;

pub(super) struct Server<F> {
    flow: F,
    invite: bool,
    state: State,
    /// The last response sent; empty before the first one, and when it will not be repeated.
    bytes: Bytes,
    /// The `100` to send if the user does not answer in time.
    trying: Option<Bytes>,
    tag: String,
    ack: Option<(String, String, u32)>,
    /// Due time of the only timer; a timer with another time is stale.
    due: Millis,
    interval: Millis,
    deadline: Millis,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// No final response sent.
    Proceeding,
    /// `2xx` to an INVITE sent, ACK outstanding.
    Accepted,
    /// Another final response sent; for an INVITE its ACK is outstanding.
    Completed,
    /// Acknowledged: absorbs late messages.
    Confirmed,
}

impl<F: Flow> Layer<F> {
    pub(super) fn open_server(&mut self, id: ServerId, request: &Request, flow: F, now: Millis) {
        let invite = request.method == Method::Invite;
        let mut server = Server {
            flow,
            invite,
            state: State::Proceeding,
            bytes: Bytes::new(),
            trying: None,
            tag: self.tag(request),
            ack: None,
            due: 0,
            interval: T1,
            deadline: 0,
        };
        if invite {
            server.trying = Some(request.respond(100).to_bytes());
            server.due = now + TRYING_AFTER;
            server.deadline = now + UNANSWERED;
        } else {
            // By then the client has given up (timer F).
            server.due = now + 64 * T1;
            server.deadline = server.due;
        }
        self.arm(server.due, Owner::Server(id.clone()));
        self.servers.insert(id, server);
    }

    /// Sends the user's response. After a final response, further ones are ignored.
    pub fn respond(&mut self, id: &ServerId, response: Response, now: Millis) -> Vec<Event<F>> {
        let mut out = Vec::new();
        let Some(server) = self.servers.get_mut(id) else { return out };
        if server.state != State::Proceeding {
            return out;
        }
        let response = match response.code {
            100 => response,
            _ => response.with_to_tag(&server.tag),
        };
        let bytes = response.to_bytes();
        out.push(send(server.flow.clone(), bytes.clone()));
        server.bytes = bytes;
        server.trying = None;
        if response.is_provisional() {
            return out;
        }
        let reliable = server.flow.reliable();
        if !server.invite {
            if reliable {
                self.servers.remove(id);
            } else {
                server.state = State::Completed;
                server.deadline = now + 64 * T1; // timer J
                server.due = server.deadline;
                let due = server.due;
                self.arm(due, Owner::Server(id.clone()));
            }
            return out;
        }
        server.interval = T1;
        server.deadline = now + 64 * T1; // timers H and L
        if response.is_success() {
            server.state = State::Accepted;
            server.due = now + T1;
            let headers = &response.headers;
            let tag = headers.tag("To").unwrap_or_default().to_owned();
            let key = (headers.call_id().to_owned(), tag, headers.cseq());
            server.ack = Some(key.clone());
            self.acks.insert(key, id.clone());
        } else {
            server.state = State::Completed;
            server.due = if reliable { server.deadline } else { now + T1 };
        }
        if let Some(due) = self.servers.get(id).map(|s| s.due) {
            self.arm(due, Owner::Server(id.clone()));
        }
        out
    }

    pub(super) fn repeated(&mut self, id: &ServerId, out: &mut Vec<Event<F>>) {
        let Some(server) = self.servers.get(id) else { return };
        let repeat = matches!(server.state, State::Proceeding | State::Completed);
        if repeat && !server.bytes.is_empty() {
            out.push(send(server.flow.clone(), server.bytes.clone()));
        }
    }

    pub(super) fn acknowledged(&mut self, id: ServerId, ack: Request, now: Millis, out: &mut Vec<Event<F>>) {
        let headers = &ack.headers;
        let dialog =
            (headers.call_id().to_owned(), headers.tag("To").unwrap_or_default().to_owned(), headers.cseq());
        // The ACK of a 2xx is matched by its dialog, any other ACK by its branch.
        let id = self.acks.get(&dialog).cloned().unwrap_or(id);
        let Some(server) = self.servers.get_mut(&id) else { return };
        match server.state {
            State::Accepted => {
                server.state = State::Confirmed;
                // Stays until timer L to absorb late copies of the INVITE, without retransmissions.
                server.bytes = Bytes::new();
                server.due = server.deadline;
                let due = server.due;
                self.arm(due, Owner::Server(id.clone()));
                out.push(Event::Acknowledged { id, ack });
            }
            State::Completed if server.invite => {
                if server.flow.reliable() {
                    self.close_server(&id);
                    return;
                }
                server.state = State::Confirmed;
                server.bytes = Bytes::new();
                server.deadline = now + T4; // timer I
                server.due = server.deadline;
                let due = server.due;
                self.arm(due, Owner::Server(id));
            }
            _ => {}
        }
    }

    pub(super) fn cancelled(&mut self, id: ServerId, cancel: Request, flow: F, out: &mut Vec<Event<F>>) {
        // Every copy of a CANCEL is answered; it needs no transaction.
        let Some(server) = self.servers.get(&id) else {
            let tag = self.tag(&cancel);
            out.push(send(flow, cancel.respond(481).with_to_tag(&tag).to_bytes()));
            return;
        };
        out.push(send(flow, cancel.respond(200).with_to_tag(&server.tag).to_bytes()));
        if server.state == State::Proceeding {
            out.push(Event::Cancelled(id));
        }
    }

    pub(super) fn server_timer(&mut self, id: ServerId, due: Millis, now: Millis, out: &mut Vec<Event<F>>) {
        let Some(server) = self.servers.get_mut(&id).filter(|s| s.due == due) else { return };
        match server.state {
            State::Proceeding if now < server.deadline => {
                if let Some(trying) = server.trying.take()
                    && server.bytes.is_empty()
                {
                    out.push(send(server.flow.clone(), trying.clone()));
                    server.bytes = trying;
                }
                server.due = server.deadline;
                let due = server.due;
                self.arm(due, Owner::Server(id));
            }
            // The user never answered, and the client has given up.
            State::Proceeding => self.close_server(&id),
            State::Accepted | State::Completed if server.invite && now < server.deadline => {
                out.push(send(server.flow.clone(), server.bytes.clone()));
                // Timer G (section 17.2.1); a `2xx` has the same intervals (section 13.3.1.4).
                server.interval = (server.interval * 2).min(T2);
                server.due = (now + server.interval).min(server.deadline);
                let due = server.due;
                self.arm(due, Owner::Server(id));
            }
            State::Accepted => {
                out.push(Event::Unacknowledged(id.clone()));
                self.close_server(&id);
            }
            State::Completed | State::Confirmed => self.close_server(&id),
        }
    }

    fn close_server(&mut self, id: &ServerId) {
        if let Some(key) = self.servers.remove(id).and_then(|s| s.ack) {
            self.acks.remove(&key);
        }
    }
}
