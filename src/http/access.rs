//! The guard's rules, by the present configuration.

use std::sync::{Arc, PoisonError, RwLock};

use super::Access;
use crate::config::{Config, LiveConfig};

/// The guard's rules at this moment.
pub struct LiveAccess {
    config: LiveConfig,
    /// The rules that were made last, and the configuration of which.
    made: RwLock<(Arc<Config>, Arc<Access>)>,
}

impl LiveAccess {
    pub fn new(config: LiveConfig) -> Self {
        let present = config.now();
        let access = rules(&present);
        LiveAccess { config, made: RwLock::new((present, access)) }
    }

    /// The rules of the present configuration.
    pub fn now(&self) -> Arc<Access> {
        let present = self.config.now();
        {
            // What is in here is replaced as a whole, so a panic leaves it whole.
            let (made_of, access) = &*self.made.read().unwrap_or_else(PoisonError::into_inner);
            if Arc::ptr_eq(made_of, &present) {
                return access.clone();
            }
        }
        let access = rules(&present);
        *self.made.write().unwrap_or_else(PoisonError::into_inner) = (present, access.clone());
        access
    }
}

fn rules(config: &Config) -> Arc<Access> {
    Arc::new(Access::new(&config.tokens, config.allowed_hosts.clone()))
}
