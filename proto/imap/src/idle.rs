//! Waiting for changes (RFC 2177).

use std::{
    pin::{Pin, pin},
    time::Duration,
};

use tokio::time::sleep;

use crate::{
    Client, IdleEnd, ImapError,
    client::Noticed,
    session::{Collector, Taken, bounded, protocol, refusal},
};

/// Name of this step in errors.
const STEP: &str = "IDLE";

impl Client {
    /// Waits until the selected folder changes, `until` ends or `longest` passes; servers end an IDLE of more than 29
    /// minutes. A change that the server reported earlier, in answer to another command, ends the waiting immediately. The
    /// future must not be dropped before it ends if the connection is used further. After `until` ended, the server has
    /// the time of one step for its answers: DONE must not be sent before the server permits it (RFC 2177 §3).
    pub async fn idle(&mut self, until: impl Future<Output = ()>, longest: Duration) -> Result<IdleEnd, ImapError> {
        if let Some(end) = self.news() {
            return Ok(end);
        }
        let until = pin!(until);
        let mut stop = Stop { until, ended: false };
        let mut rest = pin!(sleep(longest));
        let (step, total) = (self.session.wire.limit(), self.session.limit());
        let mut collector = bounded(STEP, total, stop.bound(step, self.begin_idle())).await?;
        let end = loop {
            if self.noticed.changed {
                break None;
            }
            tokio::select! {
                biased;
                () = stop.reached() => break Some(IdleEnd::Stopped),
                () = &mut rest => break Some(IdleEnd::TimedOut),
                message = self.session.wire.next(STEP) => {
                    // Each response is forgotten when it was looked at: their number in an IDLE is not limited.
                    collector.renew();
                    match collector.take(&message?)? {
                        Taken::Data => self.notice_all(&mut collector),
                        Taken::Continue(_) => {}
                        Taken::Done(_) => return Err(protocol(STEP, "it ended before DONE")),
                    }
                }
            }
        };
        bounded(STEP, total, stop.bound(step, self.end_idle(collector))).await?;
        // A change that came with the end of IDLE counts, whatever ended it.
        Ok(self.news().or(end).unwrap_or(IdleEnd::Stopped))
    }

    /// Sends IDLE and waits for the permission to wait.
    async fn begin_idle(&mut self) -> Result<Collector, ImapError> {
        let mut collector = self.session.begin_idle(STEP).await?;
        loop {
            let message = self.session.wire.response(STEP).await?;
            match collector.take(&message)? {
                Taken::Data => self.notice_all(&mut collector),
                Taken::Continue(_) => return Ok(collector),
                Taken::Done(done) => {
                    let answer = self.session.finish(collector, done);
                    return Err(refusal(STEP, None, answer.done));
                }
            }
        }
    }

    /// Sends DONE and waits for the end of the command.
    async fn end_idle(&mut self, mut collector: Collector) -> Result<(), ImapError> {
        self.session.wire.write(STEP, b"DONE\r\n").await?;
        collector.renew();
        loop {
            let message = self.session.wire.response(STEP).await?;
            match collector.take(&message)? {
                Taken::Data => self.notice_all(&mut collector),
                Taken::Continue(_) => {}
                Taken::Done(done) => {
                    let answer = self.session.finish(collector, done);
                    return if answer.done.is_ok() { Ok(()) } else { Err(refusal(STEP, None, answer.done)) };
                }
            }
        }
    }

    /// Takes the reported change.
    fn news(&mut self) -> Option<IdleEnd> {
        let noticed = std::mem::take(&mut self.noticed);
        let Noticed { changed, expunged } = noticed;
        changed.then_some(IdleEnd::Changed { expunged })
    }

    fn notice_all(&mut self, collector: &mut Collector) {
        let untagged = std::mem::take(&mut collector.untagged);
        self.notice(&untagged);
    }
}

/// Future that ends the waiting.
struct Stop<'a, F> {
    until: Pin<&'a mut F>,
    /// Whether the future ended: it must not be polled again.
    ended: bool,
}

impl<F: Future<Output = ()>> Stop<'_, F> {
    /// Waits for the end of the future; returns immediately if it ended before.
    async fn reached(&mut self) {
        if !self.ended {
            self.until.as_mut().await;
            self.ended = true;
        }
    }

    /// Limits the time of an exchange after the end of the future.
    async fn bound<T>(
        &mut self,
        limit: Duration,
        exchange: impl Future<Output = Result<T, ImapError>>,
    ) -> Result<T, ImapError> {
        let late = async {
            self.reached().await;
            sleep(limit).await;
        };
        tokio::select! {
            biased;
            result = exchange => result,
            () = late => Err(ImapError::TimedOut { step: STEP, limit }),
        }
    }
}
