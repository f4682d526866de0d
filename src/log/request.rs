//! Which request is being answered, for the lines that are logged meanwhile.
//!
//! The id stands in the task and not in a span of `tracing`: a span costs an entry in the subscriber's registry for as
//! long as its request is parked, and ten thousand requests are parked.

use crate::model::RequestId;

tokio::task_local! {
    static REQUEST: RequestId;
}

/// The same future; what is logged while it runs carries this request's id.
pub fn within<F: Future>(request: RequestId, answering: F) -> impl Future<Output = F::Output> {
    REQUEST.scope(request, answering)
}

/// The same for what needs no waiting.
pub fn within_sync<T>(request: RequestId, act: impl FnOnce() -> T) -> T {
    REQUEST.sync_scope(request, act)
}

/// The request that the present task answers.
pub fn current_request() -> Option<RequestId> {
    REQUEST.try_with(Clone::clone).ok()
}
