//! One connection to one address: carries out the actions of a dialogue.

use std::{net::SocketAddr, time::Duration};

use tokio_rustls::TlsConnector;
use twinbox_clock::BootInstant;

use crate::{
    SocketOwner, Timeouts,
    connection::{Broken, Connection},
    dialogue::{Action, Dialogue, Plan},
    encoding::DataEncoder,
    failure::{Delivered, Problem, SendFailure, SendStep},
    probe::StepLog,
};

/// Size of a block of the message, in bytes.
const BLOCK: usize = 16 * 1_024;

/// One attempt at one address.
pub(crate) struct Session<'a> {
    /// Name of the server.
    pub host: &'a str,
    /// Address of the server.
    pub address: SocketAddr,
    /// TLS, if it may be used.
    pub tls: Option<&'a TlsConnector>,
    /// TLS begins with the first byte.
    pub implicit_tls: bool,
    /// Time limits.
    pub timeouts: &'a Timeouts,
    /// End of the whole attempt.
    pub deadline: BootInstant,
    /// Owner of the connection.
    pub owner: &'a dyn SocketOwner,
    /// Record of the steps.
    pub log: &'a mut StepLog,
}

impl<'a> Session<'a> {
    /// Sends the message `bytes` according to the plan.
    pub async fn run(&mut self, plan: Plan<'_>, bytes: &[u8]) -> Result<Delivered, SendFailure> {
        let limit = self.limit(self.timeouts.connect);
        let opened = Connection::open(self.address, limit, self.owner).await;
        let mut connection = opened.map_err(|error| self.broken(SendStep::Connection, &error))?;
        self.passed(SendStep::Connection, "connected");
        if self.implicit_tls {
            connection = self.secure(connection).await?;
        }
        let mut dialogue = Dialogue::new(plan, self.implicit_tls);
        let mut limit = self.limit(self.timeouts.greeting);
        loop {
            let step = dialogue.step();
            let reply = connection.reply(limit).await.map_err(|error| self.broken(step, &error))?;
            let action = dialogue.replied(&reply);
            let ended = matches!(action, Action::Finish(_));
            let next = dialogue.step();
            // STARTTLS has passed only with the handshake after it.
            if matches!(action, Action::Finish(Ok(_))) || !ended && next != step && step != SendStep::Tls {
                self.passed(step, &reply.summary());
            }
            if !ended && !dialogue.secure() && step < SendStep::Authentication && next > SendStep::Tls {
                self.passed(SendStep::Tls, "not used: the connection is plain text");
            }
            limit = self.limit(self.timeouts.command);
            match action {
                Action::Command(line) => self.write(&mut connection, &dialogue, &line).await?,
                Action::Handshake => {
                    connection = self.secure(connection).await?;
                    let line = dialogue.secured();
                    self.write(&mut connection, &dialogue, &line).await?;
                }
                Action::Message => {
                    let sent = self.send(&mut connection, bytes).await;
                    sent.map_err(|error| self.broken(SendStep::Data, &error))?;
                    // Not bounded by the deadline: without the reply the outcome is unknown.
                    limit = self.timeouts.final_reply;
                }
                Action::Finish(outcome) => {
                    connection.quit(self.timeouts.quit).await;
                    return outcome;
                }
            }
        }
    }

    async fn write(
        &self,
        connection: &mut Connection<'_>,
        dialogue: &Dialogue<'_>,
        line: &str,
    ) -> Result<(), SendFailure> {
        let written = connection.write(line.as_bytes(), self.limit(self.timeouts.command)).await;
        written.map_err(|error| self.broken(dialogue.step(), &error))
    }

    async fn secure(&mut self, connection: Connection<'a>) -> Result<Connection<'a>, SendFailure> {
        let Some(connector) = self.tls else {
            let text = format!("TLS with {} is not configured", self.host);
            return Err(SendFailure::Temporary(Problem::new(self.host, SendStep::Tls, text)));
        };
        let secured = connection.secure(connector, self.host, self.limit(self.timeouts.command)).await;
        let (connection, certificate) = secured.map_err(|error| self.broken(SendStep::Tls, &error))?;
        self.passed(SendStep::Tls, &certificate);
        Ok(connection)
    }

    /// Sends the message and its end.
    async fn send(&self, connection: &mut Connection<'_>, bytes: &[u8]) -> Result<(), Broken> {
        let mut encoder = DataEncoder::new();
        for block in bytes.chunks(BLOCK) {
            connection.write(&encoder.block(block), self.limit(self.timeouts.block)).await?;
        }
        connection.write(&encoder.end(), self.limit(self.timeouts.block)).await
    }

    /// Time limit of a step, cut at the end of the attempt.
    fn limit(&self, step: Duration) -> Duration {
        step.min(self.deadline.since(BootInstant::now()))
    }

    fn passed(&mut self, step: SendStep, text: &str) {
        self.log.passed(step, self.host, Some(self.address), text.to_owned());
    }

    fn broken(&self, step: SendStep, error: &Broken) -> SendFailure {
        let host = self.host;
        if step == SendStep::Message {
            let text = format!("{host} received the message and did not confirm it: {error}; it may be delivered");
            return SendFailure::Unknown(Problem::new(host, step, text));
        }
        // The gate resets the connection when the lease ends.
        if matches!(error, Broken::NotHolder) || !self.owner.may_write() {
            return SendFailure::NotHolder;
        }
        let text = match error {
            Broken::Handshake(text) => text.clone(),
            error => format!("{host} ({}), {step}: {error}", self.address),
        };
        SendFailure::Temporary(Problem::new(host, step, text))
    }
}
