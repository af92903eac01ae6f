//! SIP server as a service of the node: it can be replaced while the process runs.

use std::sync::{Arc, PoisonError, RwLock};

use futures::{FutureExt, future::BoxFuture};
use tracing::warn;
use twinbox_handle::Handle;

use crate::{Calls, CallsConfig, CallsDeps, CallsError};

/// Handle to the SIP server that runs at present. Cheap to clone.
#[derive(Clone)]
pub struct CallsService(Handle<Inner>);

struct Inner {
    config: RwLock<Arc<CallsConfig>>,
    deps: CallsDeps,
    running: RwLock<Option<Calls>>,
}

impl CallsService {
    /// Service without a running server; [`Self::restart`] starts one.
    pub fn new(config: CallsConfig, deps: CallsDeps) -> Self {
        let config = RwLock::new(Arc::new(config));
        Self(Handle::new(Inner { config, deps, running: RwLock::new(None) }))
    }

    /// The SIP server, while it runs.
    pub fn running(&self) -> Option<Calls> {
        self.0.running.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Number of calls in progress; 0 without a server.
    pub fn active(&self) -> usize {
        self.running().map_or(0, |calls| calls.active())
    }

    /// Settings of the server.
    pub fn config(&self) -> Arc<CallsConfig> {
        self.0.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes settings, also of the server that runs: new calls have the new ones. Listeners, `max_calls`,
    /// `max_calls_per_second`, `max_subscriptions` and the addresses of RTP change with the next restart only.
    pub fn reconfigure(&self, change: impl FnOnce(&mut CallsConfig)) {
        let mut config = self.0.config.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = CallsConfig::clone(&config);
        change(&mut changed);
        *config = Arc::new(changed);
        if let Some(calls) = self.running() {
            calls.set_config(config.clone());
        }
    }

    /// Starts the SIP server; an earlier one is shut down first, which ends its calls.
    pub fn restart(&self) -> BoxFuture<'_, Result<(), CallsError>> {
        self.start_again().boxed()
    }

    async fn start_again(&self) -> Result<(), CallsError> {
        let old = self.0.running.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(old) = old {
            warn!("restarting the SIP server");
            old.shutdown().await;
        }
        let calls = Calls::start(CallsConfig::clone(&self.config()), self.0.deps.clone()).await?;
        let config = self.0.config.read().unwrap_or_else(PoisonError::into_inner);
        calls.set_config(config.clone());
        *self.0.running.write().unwrap_or_else(PoisonError::into_inner) = Some(calls);
        Ok(())
    }
}
