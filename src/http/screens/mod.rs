//! The page: screens for people, rendered by the server and readable without script. See decision 0091.
//!
//! ```text
//! GET /              ─▶ rows (cached for all who look) ─▶ templates/projects.html
//! GET /live          ─▶ feed: the rows of the projects that change, over one stream
//! ```
//!
//! What is sent over a stream depends on nobody's access but for which projects are told, so it is rendered once for all who
//! watch. What only some may do stands in the screen around it.

pub mod assets;
mod compress;
mod deployment;
mod deployment_course;
mod deployment_facts;
mod deployment_forms;
mod deployment_live;
mod deployment_parts;
mod deployment_render;
mod deployment_story;
mod deployment_timeline;
mod deployment_wait;
mod failure;
pub mod form;
mod frame;
mod frames;
mod hold;
mod listing;
mod log;
mod log_in;
mod log_read;
mod log_text;
mod notifications;
mod project;
mod projects;
mod response;
mod routes;
mod row;
mod rows;
mod sign_in;
mod visit;
pub mod words;

pub use compress::{compressed, takes_gzip};
pub use deployment_parts::DeploymentParts;
pub use failure::failure;
pub use frame::{Frame, Viewer};
pub use frames::{BEAT, BEAT_EVERY, frame};
pub use listing::{all_rows, refresh_rows, row_of};
pub use project::{DayCharts, parts as parts_of_project};
pub use projects::sum;
pub use response::{html, is_for_browser, rendered};
pub use routes::{open_routes, routes};
pub use row::row_id;
pub use rows::Rows;
pub use visit::{answer, instead};
