//! `closed_set!`: an enum whose variants are exactly the strings of one field on the wire.
//!
//! Gives each such enum `ALL`, `as_str` and `Display`, so that no phase, reason or label value is written as a
//! literal where it is used. The wire text is the variant's name unless another one is given. An enum that the
//! operator only reads back from status ends with `#[serde(other)] Unknown`: text written by a newer version must
//! not make an object unreadable for an older one.

/// Declares an enum over a closed set of wire strings.
macro_rules! closed_set {
    ($(#[$meta:meta])* $name:ident {
        $($(#[$variant_meta:meta])* $variant:ident $(= $text:literal)?),+ $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        pub enum $name {
            $($(#[$variant_meta])* $(#[serde(rename = $text)])? $variant),+
        }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The text on the wire.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => closed_set!(@text $variant $($text)?)),+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
    (@text $variant:ident $text:literal) => { $text };
    (@text $variant:ident) => { stringify!($variant) };
}

pub(crate) use closed_set;
