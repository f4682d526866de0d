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
        let access = Arc::new(Access::new(&present));
        LiveAccess { config, made: RwLock::new((present, access)) }
    }

    /// The rules of the present configuration. The first call after a reload ends what the reload took away.
    pub fn now(&self) -> Arc<Access> {
        let present = self.config.now();
        {
            // What is in here is replaced as a whole, so a panic leaves it whole.
            let (made_of, access) = &*self.made.read().unwrap_or_else(PoisonError::into_inner);
            if Arc::ptr_eq(made_of, &present) {
                return access.clone();
            }
        }
        let mut made = self.made.write().unwrap_or_else(PoisonError::into_inner);
        // Another request may have come first, with a configuration that is newer still.
        let present = self.config.now();
        let (made_of, access) = &*made;
        if Arc::ptr_eq(made_of, &present) {
            return access.clone();
        }
        let access = Arc::new(Access::new(&present).after(access));
        *made = (present, access.clone());
        access
    }
}
