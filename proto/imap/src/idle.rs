//! Waiting for changes (RFC 2177).

use std::{pin::pin, time::Duration};

use tokio::time::sleep;

use crate::{
    Client, IdleEnd, ImapError,
    client::Noticed,
    session::{Collector, Taken, protocol, refusal},
};

/// Name of this step in errors.
const STEP: &str = "IDLE";

impl Client {
    /// Waits until the selected folder changes, `until` ends or `longest` passes; servers end an IDLE of more than 29
    /// minutes. A change that the server told before, in answer to another command, ends the waiting immediately. The
    /// future must not be dropped before it ends if the connection is used further.
    pub async fn idle(&mut self, until: impl Future<Output = ()>, longest: Duration) -> Result<IdleEnd, ImapError> {
        if let Some(end) = self.news() {
            return Ok(end);
        }
        let mut until = pin!(until);
        let mut rest = pin!(sleep(longest));
        let mut collector = self.session.begin_idle(STEP).await?;
        loop {
            let message = self.session.wire.response(STEP).await?;
            match collector.take(&message)? {
                Taken::Data => self.notice_all(&mut collector),
                Taken::Continue(_) => break,
                Taken::Done(done) => {
                    let answer = self.session.finish(collector, done);
                    return Err(refusal(STEP, None, answer.done));
                }
            }
        }
        let end = loop {
            if self.noticed.changed {
                break None;
            }
            tokio::select! {
                biased;
                () = &mut until => break Some(IdleEnd::Stopped),
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
        self.session.wire.write(STEP, b"DONE\r\n").await?;
        collector.renew();
        loop {
            let message = self.session.wire.response(STEP).await?;
            match collector.take(&message)? {
                Taken::Data => self.notice_all(&mut collector),
                Taken::Continue(_) => {}
                Taken::Done(done) => {
                    let answer = self.session.finish(collector, done);
                    if !answer.done.is_ok() {
                        return Err(refusal(STEP, None, answer.done));
                    }
                    break;
                }
            }
        }
        // A change that came with the end of IDLE counts, whatever ended it.
        Ok(self.news().or(end).unwrap_or(IdleEnd::Stopped))
    }

    /// Takes the change that was told.
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
