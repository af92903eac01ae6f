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

use crate::How;

/// File name in the data folder.
const FILE: &str = "last-words";
/// Maximum length in bytes; a panic's message may be of any length.
const LONGEST: usize = 4_096;

/// Exit notice from the supervisor to a new incarnation, about the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The earlier incarnation, if it got as far as reporting it.
    pub life: Option<Incarnation>,
    /// Cause of its exit, as text.
    pub how: String,
}

impl Line {
    pub(crate) fn new(life: Option<Incarnation>, how: How) -> Self {
        Self { life, how: in_words(how) }
    }

    pub(crate) fn text(&self) -> String {
        let life = self.life.map_or_else(|| "-".to_owned(), |life| life.to_string());
        format!("ended {life} {}\n", self.how)
    }

    /// Parses a line from the standard input of [`crate::Spec`]'s child.
    pub fn parse(line: &str) -> Option<Self> {
        let (life, how) = line.strip_prefix("ended ")?.split_once(' ')?;
        let life = match life {
            "-" => None,
            life => Some(life.parse().ok()?),
        };
        Some(Self { life, how: how.to_owned() })
    }
}

/// Cause as text; if a core was to be written, with the reason that it was not.
fn in_words(how: How) -> String {
    // SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGXCPU, SIGXFSZ, SIGSYS: signal(7).
    const LEAVE_A_CORE: [i32; 10] = [3, 4, 5, 6, 7, 8, 11, 24, 25, 31];
    match how {
        How::Signal { number, core: false } if LEAVE_A_CORE.contains(&number) => {
            // The child has the supervisor's limits.
            let limit =
                getrlimit(Resource::Core).current.map_or_else(|| "none".to_owned(), |limit| limit.to_string());
            format!("{how}, no core written (core limit: {limit})")
        }
        how => how.to_string(),
    }
}

/// Crash report of an incarnation that did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastWords {
    /// The incarnation.
    pub life: Option<Incarnation>,
    /// Cause of its exit, as text.
    pub how: String,
    /// Its last panic, if any; not always the cause of the exit.
    pub panic: Option<String>,
}

impl LastWords {
    /// The crash report of the incarnation before this one, from the supervisor's notice and the file. The file then
    /// contains both, for people. `None` if nothing bad is known.
    pub fn take(data_dir: &Path, said: Option<Line>) -> Option<Self> {
        let file = data_dir.join(FILE);
        let left =
            fs::read(&file).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let (of, panic) = read(&left);
        let ended_ill = said.filter(|line| line.how != How::Code(0).to_string());
        // A panic of an earlier incarnation than the last has been reported already.
        let panic = panic.filter(|_| ended_ill.as_ref().is_none_or(|line| line.life == of));
        let words = match (ended_ill, panic) {
            (None, None) => return None,
            (None, Some(panic)) => Self { life: of, how: How::Unseen.to_string(), panic: Some(panic) },
            (Some(line), panic) => Self { life: line.life, how: line.how, panic },
        };
        let panic = words.panic.as_deref().map(|panic| format!("it had said: {panic}\n")).unwrap_or_default();
        let life = words.life.map(|life| life.to_string()).unwrap_or_default();
        let text = format!("at {} ms: the process before ({life}) is over: {}\n{panic}", wall().0, words.how);
        if let Err(error) = fs::write(&file, text) {
            tracing::warn!(file = %file.display(), %error, "last words could not be kept");
        }
        Some(words)
    }
}

/// From now on a panic of this process is also written into the file, before the previous hook runs.
pub fn keep_panics(data_dir: &Path, life: Incarnation) {
    let file = data_dir.join(FILE);
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        keep(&file, life, info);
        before(info);
    }));
}

fn keep(file: &PathBuf, life: Incarnation, info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("unnamed");
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let payload = info.payload();
    let message =
        payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = message.unwrap_or("(no words)");
    // A failure cannot be reported anywhere.
    let _ = fs::write(file, panicked(life, &format!("thread '{name}' panicked at {place}: {message}")));
}

fn panicked(life: Incarnation, words: &str) -> String {
    let words: String = words.chars().take(LONGEST / 4).map(|c| if c == '\n' { ' ' } else { c }).collect();
    format!("panic of {life}\n{words}\n")
}

/// The incarnation and text of a panic not reported yet.
fn read(text: &str) -> (Option<Incarnation>, Option<String>) {
    let panic = || {
        let (life, words) = text.strip_prefix("panic of ")?.split_once('\n')?;
        Some((life.parse().ok()?, words.lines().next()?.chars().take(LONGEST).collect()))
    };
    panic().map_or((None, None), |(life, words)| (Some(life), Some(words)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILLED: How = How::Signal { number: 9, core: false };

    #[test]
    fn what_a_supervisor_says_is_read_as_it_was_said() {
        for life in [None, Some(Incarnation::random())] {
            let line = Line::new(life, KILLED);
            assert_eq!(Line::parse(line.text().trim_end()), Some(line));
        }
        for wrong in ["", "ended", "ended -", "ended x y", "life - x"] {
            assert_eq!(Line::parse(wrong), None, "{wrong}");
        }
        let aborted = Line::new(None, How::Signal { number: 6, core: false });
        assert!(aborted.how.contains("no core written (core limit: "), "{}", aborted.how);
    }

    #[test]
    fn a_panic_is_told_once_and_only_with_the_end_of_its_own_life() {
        let dir = tempfile::tempdir().unwrap();
        let (life, later) = (Incarnation::random(), Incarnation::random());
        assert_eq!(LastWords::take(dir.path(), None), None);
        fs::write(dir.path().join(FILE), panicked(life, "thread 'main' panicked at a.rs:1:\nno more")).unwrap();
        let words = LastWords::take(dir.path(), Some(Line::new(Some(life), How::Code(101)))).unwrap();
        assert_eq!((words.life, words.how.as_str()), (Some(life), "exit code 101"));
        assert_eq!(words.panic.as_deref(), Some("thread 'main' panicked at a.rs:1: no more"));
        let kept = fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert!(kept.contains("exit code 101") && kept.contains("no more"), "{kept}");

        let words = LastWords::take(dir.path(), Some(Line::new(Some(later), KILLED))).unwrap();
        assert_eq!((words.life, words.panic), (Some(later), None));
        assert_eq!(LastWords::take(dir.path(), Some(Line::new(Some(later), How::Code(0)))), None, "that was well");
    }

    #[test]
    fn a_panic_under_no_supervisor_is_told_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), panicked(Incarnation::random(), "no more")).unwrap();
        let words = LastWords::take(dir.path(), None).unwrap();
        assert_eq!((words.how.as_str(), words.panic.as_deref()), ("ended unseen", Some("no more")));
    }
}
