//! Looks names up for the client, and answers only addresses to which requests may go. The client connects to these and to
//! no others, so a name that resolves to something else a moment later changes nothing. See decision 0087.

use std::{error::Error, net::SocketAddr, sync::Arc};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::config::{AllowedNetworks, refused};

/// The resolver of one rule's client.
pub(super) struct GuardedResolver(Arc<AllowedNetworks>);

impl GuardedResolver {
    pub(super) fn new(allowed: AllowedNetworks) -> Self {
        GuardedResolver(Arc::new(allowed))
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.0.clone();
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let addresses = only_allowed(&allowed, name.as_str(), found)?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

fn only_allowed(
    allowed: &AllowedNetworks,
    name: &str,
    found: Vec<SocketAddr>,
) -> Result<Vec<SocketAddr>, Box<dyn Error + Send + Sync>> {
    let first = found.iter().find_map(|address| Some((address.ip(), allowed.refuses(address.ip())?)));
    let fit: Vec<_> = found.into_iter().filter(|address| allowed.refuses(address.ip()).is_none()).collect();
    match (fit.is_empty(), first) {
        (false, _) => Ok(fit),
        (true, Some((address, what))) => {
            Err(format!("no address of {name} may be used: {}", refused(&address, what)).into())
        }
        (true, None) => Err(format!("{name} has no address").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_addresses_only_those_that_are_allowed_are_used() {
        let allowed = AllowedNetworks::default();
        let address = |text: &str| SocketAddr::new(text.parse().expect("an address"), 0);
        let mixed = vec![address("127.0.0.1"), address("1.1.1.1"), address("::ffff:10.0.0.1")];
        assert_eq!(only_allowed(&allowed, "a", mixed).expect("one is public"), [address("1.1.1.1")]);
        let why = only_allowed(&allowed, "a", vec![address("::1")]).expect_err("it is loopback").to_string();
        assert!(why.starts_with("no address of a may be used: ::1 is a loopback address"), "{why}");
        assert!(only_allowed(&allowed, "a", Vec::new()).is_err());
    }
}
