//! Test of the way of mail, up to the recipient; no mail is sent.

use std::{any::Any, os::fd::BorrowedFd, time::Duration};

use tonic::Status;
use tracing::info;
use twinbox_mta::{Delivered, MailOut, ProbeReport, ProbeStep, SendFailure, SocketOwner, Timeouts};
use twinbox_wire::delivery::{MailStep, MailTestReply};

use crate::AdminHandles;

/// Time for a test in all, below the time that the command line waits.
const TEST_WITHIN: Duration = Duration::from_secs(18);

/// Time limits of a test: an administrator waits for it.
fn limits() -> Timeouts {
    Timeouts {
        lookup: Duration::from_secs(3),
        connect: Duration::from_secs(4),
        greeting: Duration::from_secs(6),
        command: Duration::from_secs(6),
        quit: Duration::from_secs(1),
        total: Duration::from_secs(14),
        ..Timeouts::default()
    }
}

/// A test sends no mail, hence needs no duty.
struct NoDuty;

impl SocketOwner for NoDuty {
    fn own(&self, _: BorrowedFd<'_>) -> Option<Box<dyn Any + Send>> {
        Some(Box::new(()))
    }

    fn may_write(&self) -> bool {
        true
    }
}

/// Tests the way to an address.
pub async fn test(node: &AdminHandles, address: &str) -> Result<MailTestReply, Status> {
    let sender = match &node.settings.services().mail_out {
        MailOut::Ready(sender) => sender.clone(),
        MailOut::Unusable(reason) => {
            return Err(Status::failed_precondition(format!("{} cannot send mail: {reason}", node.name)));
        }
        MailOut::Off => {
            return Err(Status::failed_precondition(
                "mail out is not configured: set mail.domain and mail.smarthost with 'twinbox setting set', as in docs/mail.md",
            ));
        }
    };
    let mailer =
        sender.mailer.with_timeouts(limits()).map_err(|error| Status::failed_precondition(error.to_string()))?;
    let from = sender.from.to_string();
    info!("administrator tests the way of mail");
    let probe = mailer.probe(Some(&from), address, &NoDuty);
    let report = tokio::time::timeout(TEST_WITHIN, probe).await.map_err(|_| {
        Status::deadline_exceeded(format!(
            "no result after {} s: check the name servers and the firewall of {}",
            TEST_WITHIN.as_secs(),
            node.name
        ))
    })?;
    Ok(shown(node.name.to_string(), report))
}

fn shown(node: String, report: ProbeReport) -> MailTestReply {
    let ProbeReport { steps, outcome } = report;
    let mut steps: Vec<_> = steps.into_iter().map(step).collect();
    let ok = match outcome {
        Ok(Delivered { by, reply }) => {
            steps.push(MailStep {
                step: "result".to_owned(),
                ok: true,
                detail: format!("{by} accepts it: {reply}"),
            });
            true
        }
        Err(failure) => {
            let detail = match &failure {
                SendFailure::Permanent(_) => format!("a mail would be given up: {failure}"),
                _ => format!("a mail would be attempted again: {failure}"),
            };
            steps.push(MailStep { step: "result".to_owned(), ok: false, detail });
            false
        }
    };
    MailTestReply { node, ok, steps }
}

fn step(step: ProbeStep) -> MailStep {
    let ProbeStep { step, host, address, passed, text } = step;
    let at = match address {
        Some(address) if !text.contains(&host) => format!("{host} ({address}): "),
        Some(address) => format!("{address}: "),
        None if host.is_empty() || text.contains(&host) => String::new(),
        None => format!("{host}: "),
    };
    MailStep { step: step.word().to_owned(), ok: passed, detail: format!("{at}{text}") }
}

#[cfg(test)]
mod tests {
    use twinbox_mta::SendStep;

    use super::*;

    fn passed(step: SendStep, address: Option<&str>, text: &str) -> ProbeStep {
        let address = address.map(|address| address.parse().expect("an address"));
        ProbeStep { step, host: "mx.example.com".to_owned(), address, passed: true, text: text.to_owned() }
    }

    #[test]
    fn report_names_host_and_address_once_and_ends_with_the_result() {
        let steps = vec![
            passed(SendStep::Lookup, None, "addresses: 192.0.2.1"),
            passed(SendStep::Greeting, Some("192.0.2.1:25"), "220 mx.example.com ready"),
            passed(SendStep::Recipient, Some("192.0.2.1:25"), "250 fine"),
        ];
        let outcome = Ok(Delivered { by: "mx.example.com".to_owned(), reply: "250 fine".to_owned() });
        let reply = shown("a".to_owned(), ProbeReport { steps, outcome });
        let details: Vec<&str> = reply.steps.iter().map(|step| step.detail.as_str()).collect();
        assert!(reply.ok);
        assert_eq!(
            details,
            [
                "mx.example.com: addresses: 192.0.2.1",
                "192.0.2.1:25: 220 mx.example.com ready",
                "mx.example.com (192.0.2.1:25): 250 fine",
                "mx.example.com accepts it: 250 fine",
            ]
        );
    }

    #[test]
    fn time_limits_of_a_test_end_before_the_command_line_stops_waiting() {
        let limits = limits();
        assert!(limits.total + limits.lookup < TEST_WITHIN && TEST_WITHIN < Duration::from_secs(20));
        assert!(limits.connect < limits.total && limits.command < limits.total);
    }
}
