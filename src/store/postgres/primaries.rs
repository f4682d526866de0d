//! Looks for a newer primary among the hosts of the URL, so that a server leaves a former primary that it still
//! reaches.

use std::{collections::HashMap, sync::Arc, time::Duration};

use deadpool::managed::Pool;
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::{
    connect::{Connector, Sessions},
    link::Link,
};
use crate::health::{Pulse, Task, ticks};

/// This task, for its supervisor. Each look has a time limit.
pub(super) const TASK: Task = Task::new("primaries", Duration::from_secs(90));

/// How often the other hosts are examined, and so for how long a server may work on a former primary that it still
/// reaches.
const PAUSE: Duration = Duration::from_secs(2);
/// How long a host may take to say whether it is a standby.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// The state of a host that this server does not work with.
struct Other {
    client: Client,
    /// It is a primary that was examined already.
    is_judged: bool,
}

/// Looks until `shutdown`, and closes the connections to a former primary.
pub(super) async fn watch(connector: Arc<Connector>, pool: Pool<Sessions>, pulse: Pulse, shutdown: CancellationToken) {
    let watching = async {
        tokio::join!(close_former(&connector, &pool), look_around(&connector));
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = pulse.resting(watching) => {}
    }
}

/// Closes the connections to a former primary, so that no request has to find that out by using one.
async fn close_former(connector: &Connector, pool: &Pool<Sessions>) {
    while let Some(branch) = connector.current_branch() {
        connector.moved_from(branch).await;
        pool.retain(|session, _| connector.is_current(session.origin().branch));
    }
}

async fn look_around(connector: &Connector) {
    if connector.host_count() < 2 {
        return;
    }
    let mut others: HashMap<usize, Other> = HashMap::new();
    let mut ticks = ticks(PAUSE);
    loop {
        ticks.tick().await;
        for host in 0..connector.host_count() {
            if connector.current_host() == Some(host) {
                others.remove(&host);
            } else if let Some(other) = look(connector, host, others.remove(&host)).await {
                others.insert(host, other);
            }
        }
    }
}

/// Examines one host. A connection to a standby is kept.
async fn look(connector: &Connector, host: usize, known: Option<Other>) -> Option<Other> {
    let Other { client, is_judged } = match known {
        Some(known) => known,
        None => Other { client: connector.bare(host).await.ok()?, is_judged: false },
    };
    let asked = timeout(ANSWER_LIMIT, client.simple_query("SELECT pg_is_in_recovery()::int")).await;
    let answer = asked.ok()?.ok()?;
    let is_primary = super::facts::first_row(&answer)?.first()?.as_deref() == Some("0");
    if is_primary && !is_judged {
        let mut link: Link = connector.reach(host, None, None).await.ok()?;
        if let Err(fault) = connector.admit(host, &mut link).await {
            tracing::debug!(?fault, "another primary is not worked with");
        }
    }
    Some(Other { client, is_judged: is_primary })
}
