//! Crash reports of incarnations. An incarnation writes its own panics into a small file. The supervisor observes its
//! exit and reports it to the next incarnation, which combines both.

use std::{
    fs,
    panic::{self, PanicHookInfo},
    path::{Path, PathBuf},
};

use rustix::process::{Resource, getrlimit};
use twinbox_clock::wall;
use twinbox_ids::Incarnation;

use crate::ExitCause;

/// File name in the data folder.
const FILE: &str = "last-words";
/// Maximum length in bytes; a panic's message may be of any length.
const MAX_LENGTH: usize = 4_096;

/// Exit notice from the supervisor to a new incarnation, about the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitNotice {
    /// The earlier incarnation, if it got as far as reporting it.
    pub incarnation: Option<Incarnation>,
    /// Cause of its exit, as text.
    pub cause: String,
}

impl ExitNotice {
    pub(crate) fn new(incarnation: Option<Incarnation>, cause: ExitCause) -> Self {
        Self { incarnation, cause: cause_text(cause) }
    }

    pub(crate) fn text(&self) -> String {
        let incarnation = self.incarnation.map_or_else(|| "-".to_owned(), |id| id.to_string());
        format!("ended {incarnation} {}\n", self.cause)
    }

    /// Parses a line from the standard input of [`crate::Spec`]'s child.
    pub fn parse(line: &str) -> Option<Self> {
        let (incarnation, cause) = line.strip_prefix("ended ")?.split_once(' ')?;
        let incarnation = match incarnation {
            "-" => None,
            id => Some(id.parse().ok()?),
        };
        Some(Self { incarnation, cause: cause.to_owned() })
    }
}

/// Cause as text; if a core was to be written, with the reason that it was not.
fn cause_text(cause: ExitCause) -> String {
    // SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGXCPU, SIGXFSZ, SIGSYS: signal(7).
    const LEAVE_A_CORE: [i32; 10] = [3, 4, 5, 6, 7, 8, 11, 24, 25, 31];
    match cause {
        ExitCause::Signal { number, core: false } if LEAVE_A_CORE.contains(&number) => {
            // The child has the supervisor's limits.
            let limit =
                getrlimit(Resource::Core).current.map_or_else(|| "none".to_owned(), |limit| limit.to_string());
            format!("{cause}, no core written (core limit: {limit})")
        }
        cause => cause.to_string(),
    }
}

/// Crash report of an incarnation that did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrashReport {
    /// The incarnation.
    pub incarnation: Option<Incarnation>,
    /// Cause of its exit, as text.
    pub cause: String,
    /// Its last panic, if any; not always the cause of the exit.
    pub panic: Option<String>,
}

impl CrashReport {
    /// The crash report of the incarnation before this one, from the supervisor's notice and the file. The file then
    /// contains both, for people. `None` if nothing bad is known.
    pub fn take(data_dir: &Path, notice: Option<ExitNotice>) -> Option<Self> {
        let file = data_dir.join(FILE);
        let text =
            fs::read(&file).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let (of, panic) = read(&text);
        let failure = notice.filter(|notice| notice.cause != ExitCause::Code(0).to_string());
        // A panic of an earlier incarnation than the last has been reported already.
        let panic = panic.filter(|_| failure.as_ref().is_none_or(|notice| notice.incarnation == of));
        let report = match (failure, panic) {
            (None, None) => return None,
            (None, Some(panic)) => {
                Self { incarnation: of, cause: ExitCause::Unknown.to_string(), panic: Some(panic) }
            }
            (Some(notice), panic) => Self { incarnation: notice.incarnation, cause: notice.cause, panic },
        };
        let panic = report.panic.as_deref().map(|panic| format!("last panic: {panic}\n")).unwrap_or_default();
        let incarnation = report.incarnation.map(|id| id.to_string()).unwrap_or_default();
        let text =
            format!("at {} ms: the previous process ({incarnation}) exited: {}\n{panic}", wall().0, report.cause);
        if let Err(error) = fs::write(&file, text) {
            tracing::warn!(file = %file.display(), %error, "cannot store the crash report; check the disk");
        }
        Some(report)
    }
}

/// From now on a panic of this process is also written into the file, before the previous hook runs.
pub fn record_panics(data_dir: &Path, incarnation: Incarnation) {
    let file = data_dir.join(FILE);
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        record(&file, incarnation, info);
        before(info);
    }));
}

fn record(file: &PathBuf, incarnation: Incarnation, info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("unnamed");
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let payload = info.payload();
    let message =
        payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = message.unwrap_or("(no message)");
    // A failure cannot be reported anywhere.
    let _ =
        fs::write(file, panic_record(incarnation, &format!("thread '{name}' panicked at {location}: {message}")));
}

fn panic_record(incarnation: Incarnation, text: &str) -> String {
    let text: String = text.chars().take(MAX_LENGTH / 4).map(|c| if c == '\n' { ' ' } else { c }).collect();
    format!("panic of {incarnation}\n{text}\n")
}

/// The incarnation and text of a panic not reported yet.
fn read(text: &str) -> (Option<Incarnation>, Option<String>) {
    let panic = || {
        let (incarnation, text) = text.strip_prefix("panic of ")?.split_once('\n')?;
        Some((incarnation.parse().ok()?, text.lines().next()?.chars().take(MAX_LENGTH).collect()))
    };
    panic().map_or((None, None), |(incarnation, text)| (Some(incarnation), Some(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILLED: ExitCause = ExitCause::Signal { number: 9, core: false };

    #[test]
    fn an_exit_notice_is_parsed_as_written() {
        for incarnation in [None, Some(Incarnation::random())] {
            let notice = ExitNotice::new(incarnation, KILLED);
            assert_eq!(ExitNotice::parse(notice.text().trim_end()), Some(notice));
        }
        for wrong in ["", "ended", "ended -", "ended x y", "life - x"] {
            assert_eq!(ExitNotice::parse(wrong), None, "{wrong}");
        }
        let aborted = ExitNotice::new(None, ExitCause::Signal { number: 6, core: false });
        assert!(aborted.cause.contains("no core written (core limit: "), "{}", aborted.cause);
    }

    #[test]
    fn a_panic_is_reported_once_and_only_with_the_exit_of_its_incarnation() {
        let dir = tempfile::tempdir().unwrap();
        let (incarnation, later) = (Incarnation::random(), Incarnation::random());
        assert_eq!(CrashReport::take(dir.path(), None), None);
        fs::write(dir.path().join(FILE), panic_record(incarnation, "thread 'main' panicked at a.rs:1:\nno more"))
            .unwrap();
        let report =
            CrashReport::take(dir.path(), Some(ExitNotice::new(Some(incarnation), ExitCause::Code(101)))).unwrap();
        assert_eq!((report.incarnation, report.cause.as_str()), (Some(incarnation), "exit code 101"));
        assert_eq!(report.panic.as_deref(), Some("thread 'main' panicked at a.rs:1: no more"));
        let stored = fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert!(stored.contains("exit code 101") && stored.contains("no more"), "{stored}");

        let report = CrashReport::take(dir.path(), Some(ExitNotice::new(Some(later), KILLED))).unwrap();
        assert_eq!((report.incarnation, report.panic), (Some(later), None));
        assert_eq!(
            CrashReport::take(dir.path(), Some(ExitNotice::new(Some(later), ExitCause::Code(0)))),
            None,
            "an orderly exit"
        );
    }

    #[test]
    fn a_panic_without_a_supervisor_is_reported_too() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), panic_record(Incarnation::random(), "no more")).unwrap();
        let report = CrashReport::take(dir.path(), None).unwrap();
        assert_eq!((report.cause.as_str(), report.panic.as_deref()), ("cause unknown", Some("no more")));
    }
}
