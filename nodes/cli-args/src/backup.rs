//! Arguments of `backup`.

use std::{num::NonZeroU32, path::PathBuf};

use clap::{Args, Subcommand};

/// `backup`
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Exit codes: 0 done, 1 failed, 2 wrong use, 3 no node reachable, 4 done, but some audio is in no node or in no backup.")]
pub enum BackupCommand {
    /// Back up all users, messages and settings to a folder of the node or a bucket, while it takes calls; further backups
    /// there copy only new recordings
    Create {
        /// The folder, from the root on; the node must be able to write to it. Or s3://BUCKET/PREFIX.
        dir: PathBuf,
        /// Configuration of a node that does not run, such as one that was removed: its data is backed up, without a node.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// The backups in a folder or a bucket
    List {
        /// The folder, on this machine, or s3://BUCKET/PREFIX; without it, the node lists the destinations of the
        /// timetable's backup jobs.
        dir: Option<PathBuf>,
        /// Configuration of a stopped node, or file with a section [backup.s3], which reaches the bucket; without it, the
        /// node lists the bucket.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Check every record and recording of backups; no node is needed
    Verify {
        /// The folder, or s3://BUCKET/PREFIX.
        dir: PathBuf,
        /// Configuration of a stopped node, or file with a section [backup.s3], which reaches the bucket.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Only the backup of this name.
        #[arg(long, value_name = "NAME")]
        backup: Option<String>,
    },
    /// Restore a backup into the empty cluster of a stopped node, or a mailbox into the running cluster
    Restore(RestoreArgs),
    /// Remove old backups, interrupted ones, and recordings that no backup needs; no node is needed
    Prune {
        /// The folder, or s3://BUCKET/PREFIX.
        dir: PathBuf,
        /// Configuration of a stopped node, or file with a section [backup.s3], which reaches the bucket.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Number of backups of each node that stay, the newest ones.
        #[arg(long, value_name = "N")]
        keep: NonZeroU32,
    },
}

/// `backup restore`
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The folder of the backups; with --mailbox that of the node, from the root on. Or s3://BUCKET/PREFIX.
    pub dir: PathBuf,
    /// Name of the backup. Default: the newest; with --mailbox the newest of the cluster.
    #[arg(long, value_name = "NAME")]
    pub backup: Option<String>,
    /// Configuration of the first node of a new cluster, which must not run: all data is restored there.
    #[arg(long, value_name = "FILE", required_unless_present = "mailbox", conflicts_with_all = ["mailbox", "to"])]
    pub config: Option<PathBuf>,
    /// Restore only the messages of this mailbox, into the running cluster.
    #[arg(long, value_name = "NUMBER")]
    pub mailbox: Option<String>,
    /// The mailbox that gets them, if it is another one.
    #[arg(long, value_name = "NUMBER", requires = "mailbox")]
    pub to: Option<String>,
}
