//! Certificates of the listeners for mail and links: read again when their files change, with an alarm before they end.

use std::time::Duration;

use futures::{FutureExt, future::BoxFuture};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use twinbox_alarms::{Alarms, Code};
use twinbox_clock::wall;
use twinbox_tls::ServedCertificate;

/// Poll interval of the files.
const LOOK_EVERY: Duration = Duration::from_secs(60);

const DAY_SECONDS: i64 = 24 * 60 * 60;

/// The alarm is raised when less than this is left, and less than a quarter of the validity: ACME clients renew earlier,
/// also certificates of a few days.
const SOON_SECONDS: i64 = 14 * DAY_SECONDS;

/// Looks at the certificate of a listener until stopped. `subject` is its section of the configuration; without a
/// certificate, an alarm that an earlier start raised ends.
pub fn watch(
    subject: &'static str,
    certificate: Option<ServedCertificate>,
    alarms: Alarms,
    stop: CancellationToken,
) -> BoxFuture<'static, ()> {
    async move {
        let Some(certificate) = certificate else { return alarms.clear(Code::CertificateExpiry, subject) };
        let mut rule = CertificateRule::default();
        loop {
            let files = certificate.clone();
            let reading = tokio::task::spawn_blocking(move || files.reload());
            // A file system that hangs does not hold up the stop.
            let Some(read) = stop.run_until_cancelled(reading).await else { return };
            let read = match read {
                Ok(read) => read.map_err(|error| error.to_string()),
                Err(error) => return warn!(subject, %error, "the certificate is not read again"),
            };
            if read == Ok(true) {
                info!(subject, file = %certificate.path().display(), "new certificate in use");
            }
            let now = i64::try_from(wall().0 / 1_000).unwrap_or(i64::MAX);
            match rule.look(read.err(), certificate.validity(), now) {
                Some(CertificateFinding::Fine) => alarms.clear(Code::CertificateExpiry, subject),
                Some(CertificateFinding::Wrong(detail)) => {
                    warn!(subject, file = %certificate.path().display(), detail, "ALARM: renew the certificate");
                    alarms.raise(Code::CertificateExpiry, subject, detail);
                }
                None => {}
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return,
            }
        }
    }
    .boxed()
}

/// Result of a look at a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
enum CertificateFinding {
    Fine,
    /// The alarm's detail.
    Wrong(String),
}

/// The rule of one certificate.
#[derive(Debug, Default)]
struct CertificateRule {
    unusable_before: bool,
    reported: Option<CertificateFinding>,
}

impl CertificateRule {
    /// The verdict, if it is another than at the look before. `unusable`: reason why the files cannot be used; the
    /// certificate of before is in use. `validity` and `now` are in seconds from the epoch.
    ///
    /// The two files are not replaced in one moment, so they count as unusable from the second look on.
    fn look(
        &mut self,
        unusable: Option<String>,
        (begins, ends): (i64, i64),
        now: i64,
    ) -> Option<CertificateFinding> {
        let stays = std::mem::replace(&mut self.unusable_before, unusable.is_some());
        let left = ends.saturating_sub(now);
        let is_soon = left < SOON_SECONDS.min(ends.saturating_sub(begins) / 4);
        let verdict = match unusable.filter(|_| stays) {
            Some(reason) => CertificateFinding::Wrong(format!(
                "{reason}; the certificate of before is in use, and {}",
                remaining_text(left)
            )),
            None if is_soon => CertificateFinding::Wrong(remaining_text(left)),
            None => CertificateFinding::Fine,
        };
        (self.reported.as_ref() != Some(&verdict)).then(|| self.reported.insert(verdict).clone())
    }
}

fn remaining_text(left: i64) -> String {
    match left {
        ..=0 => "it has expired".to_owned(),
        1..DAY_SECONDS => "it ends within a day".to_owned(),
        _ => format!("it ends within {} days", left / DAY_SECONDS + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: (i64, i64) = (0, 90 * DAY_SECONDS);

    fn wrong(detail: &str) -> Option<CertificateFinding> {
        Some(CertificateFinding::Wrong(detail.to_owned()))
    }

    #[test]
    fn alarm_begins_two_weeks_before_the_end_and_ends_with_a_new_certificate() {
        let mut rule = CertificateRule::default();
        assert_eq!(rule.look(None, LIFE, 0), Some(CertificateFinding::Fine));
        assert_eq!(rule.look(None, LIFE, 76 * DAY_SECONDS), None);
        assert_eq!(rule.look(None, LIFE, 76 * DAY_SECONDS + 1), wrong("it ends within 14 days"));
        assert_eq!(rule.look(None, LIFE, 76 * DAY_SECONDS + 60), None, "the same");
        assert_eq!(rule.look(None, LIFE, LIFE.1), wrong("it has expired"));
        assert_eq!(rule.look(None, (LIFE.1, 2 * LIFE.1), LIFE.1), Some(CertificateFinding::Fine));
    }

    #[test]
    fn certificates_of_days_are_no_alarm_from_their_first_day() {
        let mut rule = CertificateRule::default();
        assert_eq!(rule.look(None, (0, 6 * DAY_SECONDS), 0), Some(CertificateFinding::Fine));
        assert_eq!(rule.look(None, (0, 6 * DAY_SECONDS), 5 * DAY_SECONDS), wrong("it ends within 2 days"));
    }

    #[test]
    fn files_between_two_certificates_are_no_alarm_and_unusable_ones_are() {
        let mut rule = CertificateRule::default();
        let unusable = || Some("mail.pem is not usable: x".to_owned());
        assert_eq!(rule.look(None, LIFE, 0), Some(CertificateFinding::Fine));
        assert_eq!(rule.look(unusable(), LIFE, 60), None);
        assert_eq!(rule.look(None, LIFE, 120), None);
        assert_eq!(rule.look(unusable(), LIFE, 180), None);
        let detail = "mail.pem is not usable: x; the certificate of before is in use, and it ends within 90 days";
        assert_eq!(rule.look(unusable(), LIFE, 240), wrong(detail));
        assert_eq!(rule.look(None, LIFE, 300), Some(CertificateFinding::Fine));
    }
}
