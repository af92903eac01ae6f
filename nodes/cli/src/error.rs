//! Failures of a command and their exit codes.

use std::process::ExitCode;

/// Failure that the command reports at its end.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The command failed: exit code 1.
    #[error("{0}")]
    Failed(String),
    /// The arguments are wrong: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// No node was reachable: exit code 3.
    #[error("{0}")]
    Unreachable(String),
}

impl CliError {
    /// Failure from any error.
    pub fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    /// Exit code as documented in the help text.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
        })
    }
}

impl From<tonic::Status> for CliError {
    fn from(status: tonic::Status) -> Self {
        match status.code() {
            tonic::Code::Unavailable => Self::Unreachable(format!("the node went away: {}", status.message())),
            tonic::Code::InvalidArgument => Self::Usage(status.message().to_owned()),
            _ => Self::Failed(status.message().to_owned()),
        }
    }
}
