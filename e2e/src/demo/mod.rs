//! What `make demo` shows: the samples of `deploy/samples`, applied one after the other, and what becomes of them.
//!
//! [`look`](observe) looks at the objects as a person with kubectl would, [`story`] holds what must happen,
//! [`screen`] shows it: a table that is redrawn on a terminal, lines elsewhere.

pub mod observe;
pub mod screen;
pub mod story;
