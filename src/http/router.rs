//! Every route on one screen.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, Method, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{MethodRouter, get, post, put},
};

use super::{
    App,
    access_log::{AccessLog, Answered},
    admin, artifacts, audit, cancel, claims,
    door::{self, Visitor, VisitorAdmission},
    error, events, feed, forget, intake, mark, meta, metrics,
    needs::{MethodNeeds, RouteKind},
    notifications, pause, projects, read, redact,
    refusals::{self, RefusedAttempt},
    rollback, screens, submit, tokens,
    validity::AccessEnd,
    waits, workers,
};
use crate::{log, model::Scope, wire::ErrorCode};

/// A path, its methods with the scopes of which a caller needs one (none: everybody may), and who answers.
type Route = (&'static str, &'static [MethodNeeds], MethodRouter<Arc<App>>);

/// What each path's methods need, and whom it answers.
type Needs = BTreeMap<&'static str, (RouteKind, &'static [MethodNeeds])>;

const NOTHING: &[Scope] = &[];
const READ: &[Scope] = &[Scope::Read];
const SUBMIT: &[Scope] = &[Scope::Submit];
/// A lease's secret proves the rest.
const RUN: &[Scope] = &[Scope::Work, Scope::Submit];
const ADMIN: &[Scope] = &[Scope::Admin];
const FETCH: &[Scope] = &[Scope::Read, Scope::Work];

/// The paths, their methods, and their handlers. A test compares `openapi.yaml` with this list.
fn routes() -> Vec<Route> {
    const DEPLOYMENTS: &str = "/v1/projects/{project}/deployments";
    vec![
        (DEPLOYMENTS, &[("get", READ), ("post", SUBMIT)], get(read::list).post(submit::submit)),
        ("/v1/projects/{project}/deployments/{id}", &[("get", READ)], get(read::one)),
        ("/v1/projects/{project}/deployments/{id}/completion", &[("get", READ)], get(waits::completion)),
        ("/v1/projects/{project}/deployments/{id}/turn", &[("get", SUBMIT)], get(waits::turn)),
        ("/v1/projects/{project}/deployments/{id}/events", &[("get", READ)], get(events::events)),
        ("/v1/projects/{project}/deployments/{id}/cancel", &[("post", &[Scope::Cancel])], post(cancel::cancel)),
        ("/v1/projects/{project}/deployments/{id}/redact", &[("post", ADMIN)], post(redact::redact)),
        ("/v1/projects/{project}/deployments/{id}/heartbeat", &[("post", RUN)], post(workers::heartbeat)),
        ("/v1/projects/{project}/deployments/{id}/reports", &[("post", RUN)], post(workers::reports)),
        ("/v1/projects/{project}/deployments/{id}/finish", &[("post", RUN)], post(workers::finish)),
        ("/v1/projects", &[("get", READ)], get(projects::list)),
        ("/v1/projects/{project}", &[("get", READ), ("delete", ADMIN)], get(projects::one).delete(forget::forget)),
        ("/v1/projects/{project}/events", &[("get", READ)], get(feed::one)),
        ("/v1/events", &[("get", READ)], get(feed::all)),
        ("/v1/projects/{project}/pause", &[("post", ADMIN)], post(pause::pause)),
        ("/v1/projects/{project}/resume", &[("post", ADMIN)], post(pause::resume)),
        ("/v1/projects/{project}/order", &[("put", ADMIN)], put(mark::set)),
        ("/v1/projects/{project}/release", &[("post", &[Scope::Release])], post(projects::release)),
        ("/v1/projects/{project}/rollback", &[("post", SUBMIT)], post(rollback::rollback)),
        ("/v1/audit", &[("get", ADMIN)], get(audit::list)),
        ("/v1/notifications", &[("get", ADMIN)], get(notifications::list)),
        ("/v1/notifications/{id}/retry", &[("post", ADMIN)], post(notifications::retry)),
        ("/v1/claims", &[("post", &[Scope::Work])], post(claims::claim)),
        (
            "/v1/artifacts/{sha256}",
            &[("get", FETCH), ("head", &[Scope::Submit, Scope::Read, Scope::Work]), ("put", SUBMIT)],
            get(artifacts::get).head(artifacts::head).put(artifacts::put),
        ),
        ("/v1/admin/reload", &[("post", ADMIN)], post(admin::reload)),
        ("/v1/tokens", &[("get", ADMIN), ("post", ADMIN)], get(tokens::list).post(tokens::create)),
        ("/v1/tokens/{token}/revoke", &[("post", ADMIN)], post(tokens::revoke)),
        ("/healthz", &[("get", NOTHING)], get(meta::healthz)),
        ("/readyz", &[("get", NOTHING)], get(meta::readyz)),
        ("/metrics", &[("get", NOTHING)], get(metrics::metrics)),
        ("/openapi.yaml", &[("get", NOTHING)], get(meta::openapi)),
    ]
}

/// The paths, with their methods and what these need.
pub fn route_table() -> Vec<(&'static str, &'static [MethodNeeds])> {
    routes().into_iter().map(|(path, methods, _)| (path, methods)).collect()
}

/// The scopes of which a request needs one. A path or method that is not there is answered by its own error.
fn needed(needs: &Needs, path: &str, method: &Method) -> &'static [Scope] {
    let methods = needs.get(path).map(|(_, methods)| *methods).unwrap_or_default();
    let find = |name: &str| methods.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    // axum answers HEAD wherever there is a GET.
    let found = find(method.as_str()).or_else(|| (*method == Method::HEAD).then(|| find("get")).flatten());
    found.map_or(NOTHING, |(_, scopes)| scopes)
}

/// Whom a request's route answers. A path that is not there is one of the API's where it looks like one.
fn kind(needs: &Needs, route: Option<&MatchedPath>, path: &str) -> RouteKind {
    match route.and_then(|route| needs.get(route.as_str())) {
        Some((kind, _)) => *kind,
        None if path.starts_with("/v1") => RouteKind::Api,
        None => RouteKind::Open,
    }
}

/// The whole HTTP service.
pub fn router(app: Arc<App>) -> Router {
    let mut router = Router::new();
    let mut needs = BTreeMap::new();
    let of = |kind: RouteKind| move |route: Route| (kind, route);
    let api = routes().into_iter().map(|route| {
        let kind = if route.0.starts_with("/v1") { RouteKind::Api } else { RouteKind::Open };
        (kind, route)
    });
    let screens = screens::routes().into_iter().map(of(RouteKind::Screen));
    for (kind, (path, methods, handlers)) in
        api.chain(screens).chain(screens::open_routes().into_iter().map(of(RouteKind::Open)))
    {
        router = router.route(path, handlers);
        needs.insert(path, (kind, methods));
    }
    let needs = Arc::new(needs);
    router
        .fallback(|| async {
            error::ErrorAnswer::new(ErrorCode::NotFound, "there is no such route; see /openapi.yaml")
        })
        .method_not_allowed_fallback(|| async {
            error::ErrorAnswer::new(ErrorCode::MethodNotAllowed, "this route does not take that method; see Allow")
        })
        .layer(middleware::from_fn_with_state((app.clone(), needs), front))
        .with_state(app)
}

/// The layer that every request passes: its id and the guard, and on the way back the rest of its body, the error's
/// body, the log and the count. It is one layer, because each layer costs a parked poll another half KiB.
async fn front(State((app, needs)): State<(Arc<App>, Arc<Needs>)>, mut request: Request, next: Next) -> Response {
    let (arrived_at, begun_at) = (Instant::now(), AccessLog::begin());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let rest = intake::watch(&mut request);
    let needed = route.as_ref().map_or(NOTHING, |route| needed(&needs, route.as_str(), &method));
    let is_of_lease = needed == RUN;
    let kind = kind(&needs, route.as_ref(), &path);
    let as_screen =
        kind == RouteKind::Screen || (kind == RouteKind::Open && screens::is_for_browser(request.headers()));
    let shrinks = (as_screen || path.starts_with("/assets/")) && screens::takes_gzip(request.headers());
    let visitor = Visitor::of(&app, &request, kind, needed, is_of_lease);
    let (id, address) = (visitor.id.clone(), visitor.address);
    let VisitorAdmission { caller, admitted } = log::within(id.clone(), door::admit(&app, visitor)).await;
    // The door counts those that it does not let in.
    let is_let_in = admitted.is_ok();
    let response = match admitted {
        Ok(grant) => {
            request.extensions_mut().insert(grant.clone());
            let is_cut = door::is_cut(&method);
            tokio::select! {
                biased;
                response = log::within(id.clone(), async {
                    match kind {
                        // Boxed, so that a parked poll does not pay for it.
                        RouteKind::Screen => Box::pin(screens::answer(&app, request, next)).await,
                        RouteKind::Api | RouteKind::Open => next.run(request).await,
                    }
                }) => {
                    if is_cut { door::cut_stream(response, grant) } else { response }
                }
                () = grant.ended(), if is_cut => door::ended(grant.end().unwrap_or(AccessEnd::Expired)).into_response(),
            }
        }
        Err(failure) => {
            let instead = if kind == RouteKind::Screen { screens::instead(&app, &request, &failure) } else { None };
            drop(request);
            instead.unwrap_or_else(|| failure.into_response())
        }
    };
    let (mut response, told) =
        error::render(&path, &id, response, as_screen.then_some(screens::failure as error::ScreenOf));
    if shrinks {
        response = Box::pin(screens::compressed(response)).await;
    }
    if app.watch.is_draining() {
        // Close the connection, so that the client's next request opens a new one, which a load balancer sends to
        // another server.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(rest) = rest {
        // Boxed, because few requests need it.
        Box::pin(rest.settle(&app.shutdown, &mut response)).await;
    }
    let status = response.status();
    app.metrics.count(&method, route.as_ref().map(MatchedPath::as_str), status, arrived_at.elapsed());
    if told.code == Some(ErrorCode::LeaseLost) {
        app.metrics.count_lost_lease();
    }
    let (code, caller) = (told.code, caller.or(told.caller));
    let answered =
        Answered { method: &method, path: &path, status, code, caller: caller.as_deref(), address, begun_at };
    log::within_sync(id.clone(), || app.access_log.note(&answered));
    if let Some(code) = code.filter(|code| refusals::is_worth_knowing(*code) || told.foreign.is_some()) {
        if is_let_in {
            app.metrics.count_refused(code);
        }
        let project = told.foreign.or_else(|| route.as_ref().and_then(|_| refusals::project_in(&path)));
        let what = refusals::what(&method, route.as_ref().map_or("an unknown route", MatchedPath::as_str));
        app.refusals.note(RefusedAttempt { at: app.now(), code, caller, address, project, what, request: id });
    }
    response
}
