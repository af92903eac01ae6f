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
    /// The command did its work, but a part of the data was nowhere to be found: exit code 4.
    #[error("{0}")]
    Incomplete(String),
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
            Self::Incomplete(_) => 4,
        })
    }
}

impl From<tonic::Status> for CliError {
    fn from(status: tonic::Status) -> Self {
        // An error of this end of the connection has a source; an answer of the node has none.
        if std::error::Error::source(&status).is_some() {
            let text = status.message();
            return Self::Unreachable(match status.code() {
                tonic::Code::Cancelled | tonic::Code::DeadlineExceeded => format!(
                    "the node does not answer ({text}): check it with 'twinbox health' on its machine, or ask another (--node)"
                ),
                _ => format!("the connection to the node was lost: {text}"),
            });
        }
        match status.code() {
            tonic::Code::Unavailable => Self::Unreachable(status.message().to_owned()),
            // The fallback of a node that does not know the request has no text.
            tonic::Code::Unimplemented if status.message().is_empty() => Self::Failed(
                "this node runs an older release, which does not know the command: upgrade it, or ask another (--node)"
                    .to_owned(),
            ),
            tonic::Code::InvalidArgument => Self::Usage(status.message().to_owned()),
            _ => Self::Failed(status.message().to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tonic::Status;

    use super::*;

    #[test]
    fn unknown_request_at_the_node_names_the_older_release_and_other_refusals_keep_their_text() {
        let older = CliError::from(Status::unimplemented("")).to_string();
        assert!(older.contains("older release"), "{older}");
        let witness = CliError::from(Status::unimplemented("a witness has no services"));
        assert_eq!(witness.to_string(), "a witness has no services");
    }

    #[test]
    fn lost_connection_and_silent_node_are_told_from_what_the_node_says() {
        let of_this_end = |mut status: Status| {
            status.set_source(Arc::new(std::io::Error::other("reset")));
            CliError::from(status)
        };
        for (error, expected) in [
            (of_this_end(Status::cancelled("Timeout expired")), "the node does not answer (Timeout expired): "),
            (of_this_end(Status::unknown("h2 protocol error")), "the connection to the node was lost: h2"),
            (CliError::from(Status::unavailable("this node still receives records")), "this node still receives"),
        ] {
            assert!(matches!(&error, CliError::Unreachable(text) if text.starts_with(expected)), "{error}");
        }
        assert!(matches!(CliError::from(Status::cancelled("by an administrator")), CliError::Failed(_)));
    }
}
