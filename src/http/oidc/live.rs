//! The issuers and rules of the present configuration.

use std::sync::{Arc, PoisonError, RwLock};

use tokio_util::sync::CancellationToken;

use super::Oidc;
use crate::{
    clock::Clock,
    config::{Config, LiveConfig},
};

/// The issuers whose tokens are accepted at this moment.
pub struct LiveOidc {
    config: LiveConfig,
    /// What was made last, and of which configuration.
    made: RwLock<(Arc<Config>, Arc<Oidc>)>,
}

impl LiveOidc {
    /// Nothing is fetched before the first token comes.
    pub fn new(config: LiveConfig, clock: Arc<dyn Clock>) -> Self {
        let present = config.now();
        let oidc = Arc::new(Oidc::new(&present.oidc, &present.page.log_ins, clock));
        LiveOidc { config, made: RwLock::new((present, oidc)) }
    }

    /// The issuers of the present configuration.
    pub fn now(&self) -> Arc<Oidc> {
        let present = self.config.now();
        {
            // What is in here is replaced as a whole, so a panic leaves it whole.
            let (made_of, oidc) = &*self.made.read().unwrap_or_else(PoisonError::into_inner);
            if Arc::ptr_eq(made_of, &present) {
                return oidc.clone();
            }
        }
        let mut made = self.made.write().unwrap_or_else(PoisonError::into_inner);
        if made.0.oidc != present.oidc || made.0.page.log_ins != present.page.log_ins {
            made.1 = Arc::new(made.1.with_issuers(&present.oidc, &present.page.log_ins));
        }
        made.0 = present;
        made.1.clone()
    }

    /// Judges the tokens that are known anew at each reload, whether a request comes or not.
    pub async fn follow(self: Arc<Self>, shutdown: CancellationToken) {
        let mut changes = self.config.changes();
        let reloads = async {
            while changes.changed().await.is_ok() {
                self.now();
            }
        };
        tokio::select! {
            () = reloads => {}
            () = shutdown.cancelled() => {}
        }
    }
}
