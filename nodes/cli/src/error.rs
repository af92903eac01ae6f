//! How a command can fail, and which exit code that is.

use std::process::ExitCode;

/// The one report at the edge.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// It was tried and did not work: exit code 1.
    #[error("{0}")]
    Failed(String),
    /// It was asked wrongly: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// No node could be asked: exit code 3.
    #[error("{0}")]
    Unreachable(String),
}

impl CliError {
    /// A failure, from whatever went wrong.
    pub fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    /// The exit code that the help text promises.
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
