//! Report of the steps of an attempt, for tests by administrators.

use std::net::SocketAddr;

use crate::failure::{Delivered, SendFailure, SendStep};

/// One step of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeStep {
    /// The step.
    pub step: SendStep,
    /// Host or domain that the step is about.
    pub host: String,
    /// Address of the host, once connected to.
    pub address: Option<SocketAddr>,
    /// Whether the step succeeded.
    pub passed: bool,
    /// Reply, certificate or reason of the failure, in one line.
    pub text: String,
}

/// Report of an attempt that ends before the message is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeReport {
    /// Steps in the order in which they were made, of all hosts and addresses tried.
    pub steps: Vec<ProbeStep>,
    /// Host that would accept the message, with its reply to the recipient; or the failure.
    pub outcome: Result<Delivered, SendFailure>,
}

/// Record of the steps of an attempt.
#[derive(Debug, Default)]
pub(crate) struct StepLog(Vec<ProbeStep>);

impl StepLog {
    /// Records a step that succeeded.
    pub fn passed(&mut self, step: SendStep, host: &str, address: Option<SocketAddr>, text: String) {
        self.0.push(ProbeStep { step, host: host.to_owned(), address, passed: true, text });
    }

    /// Records a failure.
    pub fn failed(&mut self, address: Option<SocketAddr>, failure: &SendFailure) {
        if let Some(problem) = failure.problem() {
            let host = problem.host.clone().unwrap_or_default();
            self.0.push(ProbeStep { step: problem.step, host, address, passed: false, text: problem.text.clone() });
        }
    }

    /// All steps in order.
    pub fn into_steps(self) -> Vec<ProbeStep> {
        self.0
    }
}
