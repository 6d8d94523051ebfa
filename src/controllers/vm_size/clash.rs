//! Which other sizes claim a name of this one. Pure.

use trainyard_api::vm_size::VmSize;

/// Another size that claims a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rival {
    /// Name of the other VmSize object.
    pub name: String,
    /// The name both claim, as this size writes it.
    pub claimed: String,
}

/// The sizes of `all` that answer to a name of `size`, in order of their names.
pub fn rivals<'a>(size: &VmSize, all: impl Iterator<Item = &'a VmSize>) -> Vec<Rival> {
    let mut rivals: Vec<Rival> = all
        .filter(|other| other.metadata.name != size.metadata.name)
        .filter_map(|other| {
            let claimed = std::iter::once(&size.spec.size_name)
                .chain(&size.spec.aliases)
                .find(|name| other.spec.answers_to(name))?;
            Some(Rival { name: other.metadata.name.clone()?, claimed: claimed.clone() })
        })
        .collect();
    rivals.sort_by(|a, b| a.name.cmp(&b.name));
    rivals
}

/// What is wrong and what to do.
pub fn sentence(rivals: &[Rival]) -> String {
    let claims: Vec<String> =
        rivals.iter().map(|rival| format!("VmSize {} ({})", rival.name, rival.claimed)).collect();
    format!(
        "the same name is claimed by {}: take it out of spec.aliases of all but one; until then no Cluster that asks for \
         it gets machines",
        claims.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use trainyard_api::vm_size::{VmSizeSpec, object_name};

    use super::*;

    fn size(name: &str, aliases: &[&str]) -> VmSize {
        let spec = VmSizeSpec {
            size_name: name.to_owned(),
            aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            ..VmSizeSpec::default()
        };
        VmSize::new(&object_name(name), spec)
    }

    #[test]
    fn a_name_in_another_case_is_the_same_name() {
        let (one, other) = (size("Standard_A", &["big"]), size("Standard_B", &["BIG"]));
        let found = rivals(&one, [&one, &other].into_iter());
        assert_eq!(found, [Rival { name: "standard-b".into(), claimed: "big".into() }]);
        assert!(sentence(&found).contains("standard-b (big)"));
    }

    #[test]
    fn sizes_with_names_of_their_own_do_not_clash() {
        let (one, other) = (size("Standard_A", &["a"]), size("Standard_B", &["b"]));
        assert_eq!(rivals(&one, [&one, &other].into_iter()), []);
    }
}
