//! One project's screen.
//!
//! ```text
//! screen   ─▶ the whole page: parts, history by the viewer's filter, charts, rules
//! parts    ─▶ what a stream replaces: slot, line, time line, what is live; and the rows of the history that may be new
//! ```

mod actions;
mod by_day;
mod day_charts;
mod history;
mod line;
mod live;
mod parts;
mod rules;
mod screen;
mod slot;
mod time_line;

pub use actions::{
    mark, mark_form, pause, pause_form, release, release_form, resume, resume_form, rollback, rollback_form,
};
pub use day_charts::DayCharts;
pub use parts::parts;
pub use screen::one;
