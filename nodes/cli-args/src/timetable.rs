//! Arguments of `timetable`.

use std::time::Duration;

use clap::{Args, Subcommand};

/// Kinds of jobs.
const KINDS: [&str; 6] = ["ageing", "quota-warnings", "mwi-resync", "directory-sync", "report", "backup"];

/// `timetable`
#[derive(Debug, Subcommand)]
pub enum TimetableCommand {
    /// All jobs, with the time at which each is due next
    List,
    /// Add a job, and print its next three due times
    Add {
        /// Its name; 1 to 63 of a-z, 0-9, '-' and '_'.
        name: String,
        /// Its kind; it never changes.
        #[arg(long = "job", value_name = "KIND", value_parser = KINDS)]
        kind: String,
        /// The times: minute, hour, day of the month, month, weekday, such as '0 3 * * *'; or a name such as @daily.
        #[arg(long)]
        cron: String,
        /// The other settings.
        #[command(flatten)]
        settings: JobSettings,
    },
    /// Change a job, and print its next three due times
    Set {
        /// Its name.
        name: String,
        /// The times, as in 'timetable add'.
        #[arg(long)]
        cron: Option<String>,
        /// The other settings.
        #[command(flatten)]
        settings: JobSettings,
    },
    /// Run a job now, wait for its end and print the outcome; exit code 1 if it failed
    Run {
        /// Its name.
        name: String,
        /// Time limit for the outcome.
        #[arg(long, default_value = "600", value_name = "SECONDS", value_parser = super::seconds)]
        timeout: Duration,
    },
    /// Runs of a job, or of all jobs, newest first
    History {
        /// Its name.
        name: Option<String>,
        /// At most this number.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        most: u32,
    },
    /// Remove a job
    Remove {
        /// Its name.
        name: String,
    },
}

/// Settings of a job other than its times.
#[derive(Debug, Args)]
pub struct JobSettings {
    /// The time zone, such as Europe/Berlin. Default: the node's voicemail.timezone
    #[arg(long)]
    zone: Option<String>,
    /// The place where it runs. Default: publisher
    #[arg(long = "on", value_name = "PLACE", value_parser = ["publisher", "every-node"])]
    place: Option<String>,
    /// Rule for due times at which no node could run it. Default: skip
    #[arg(long, value_name = "RULE", value_parser = ["skip", "run-once"])]
    missed: Option<String>,
    /// Arguments of its kind (docs/timetable.md), where ARGUMENT= removes one; also name, enabled, limit (seconds)
    #[arg(value_name = "SETTING=VALUE")]
    others: Vec<String>,
}

impl JobSettings {
    /// All settings as `word=value`.
    pub fn with_cron(self, cron: Option<String>) -> Vec<String> {
        let options = [("cron", cron), ("zone", self.zone), ("place", self.place), ("missed", self.missed)];
        let given = options.into_iter().filter_map(|(word, value)| Some(format!("{word}={}", value?)));
        given.chain(self.others).collect()
    }
}
