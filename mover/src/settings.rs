//! Where this host says that it can be reached: `CAIRN_*`, and HPSS's variables with the same meaning.
//!
//! Invariants kept here: nothing is read but through the lookup that is passed in; Cairn's own
//! variables come before HPSS's; an empty variable is not set; a bad one is an error, never
//! passed over for the next.

use crate::iod::Host;
use crate::ports::{PortFault, PortMap, PortRange};

/// Variables that name the advertised hosts, the first one that is set counts.
pub const HOST_VARIABLES: [&str; 3] = ["CAIRN_HOSTNAME", "HPSS_HOSTNAME", "HPSS_CTL_HOSTNAME"];

/// Variables that name the port range, the first one that is set counts.
pub const PORT_VARIABLES: [&str; 4] = [
    "CAIRN_PORT_RANGE",
    "HPSS_PFTC_PORT_RANGE",
    "HPSS_PFTPC_PORT_RANGE",
    "HPSS_PORT_RANGE",
];

/// A value, and the variable that it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given<T> {
    /// What was set.
    pub value: T,
    /// By which variable.
    pub variable: &'static str,
}

/// What the environment says about being reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// Hosts as the far side must dial them, in the order they stand in.
    pub hosts: Option<Given<Vec<Host>>>,
    /// Ports to bind, and as the far side must dial them.
    pub ports: Option<Given<PortMap>>,
}

/// A variable has a value that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingFault {
    /// No host name or address.
    #[error(
        "{variable}: `{value}` is no host name or address; \
         set it to the name or address that the other side must dial, several separated by commas"
    )]
    Host {
        /// The variable.
        variable: &'static str,
        /// The part of its value that is wrong.
        value: String,
    },
    /// No port range.
    #[error("{variable}: {fault}; write {}", example(.variable))]
    Ports {
        /// The variable.
        variable: &'static str,
        /// What is wrong.
        fault: PortFault,
    },
}

fn example(variable: &str) -> &'static str {
    if variable.starts_with("HPSS_") {
        "`ncacn_ip_tcp[7000-7009]` or `7000-7009`"
    } else {
        "`7000-7009`, or `7010-7019:7000-7009` where a container's 7000-7009 is published as 7010-7019"
    }
}

impl Settings {
    /// Reads the variables through `lookup`, which answers a variable's value if it is set.
    ///
    /// # Errors
    /// [`SettingFault`] names the variable, what is wrong and what to write.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, SettingFault> {
        let set = |names: &[&'static str]| {
            names.iter().find_map(|name| {
                let value = lookup(name).filter(|v| !v.trim().is_empty());
                value.map(|v| (*name, v))
            })
        };
        let hosts = set(&HOST_VARIABLES).map(|(variable, value)| hosts(variable, &value));
        let ports = set(&PORT_VARIABLES).map(|(variable, value)| ports(variable, &value));
        Ok(Self {
            hosts: hosts.transpose()?,
            ports: ports.transpose()?,
        })
    }
}

fn hosts(variable: &'static str, value: &str) -> Result<Given<Vec<Host>>, SettingFault> {
    let fault = |part: &str| SettingFault::Host {
        variable,
        value: part.trim().to_owned(),
    };
    let one = |part: &str| part.trim().parse().map_err(|_| fault(part));
    let value = value.split(',').map(one).collect::<Result<_, _>>()?;
    Ok(Given { value, variable })
}

fn ports(variable: &'static str, value: &str) -> Result<Given<PortMap>, SettingFault> {
    let map = if variable.starts_with("HPSS_") {
        dce_range(value).map(PortMap::same)
    } else {
        value.parse()
    };
    map.map(|value| Given { value, variable })
        .map_err(|fault| SettingFault::Ports { variable, fault })
}

/// HPSS's way to write a range: a DCE string, of which only `ncacn_ip_tcp[7000-7009]` counts; or
/// the range alone.
fn dce_range(value: &str) -> Result<PortRange, PortFault> {
    let shape = || PortFault::Shape(value.to_owned());
    let Some((_, behind)) = value.split_once("ncacn_ip_tcp") else {
        return value.trim().parse();
    };
    let inner = behind.trim_start().strip_prefix('[').ok_or_else(shape)?;
    inner.split_once(']').ok_or_else(shape)?.0.trim().parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> Result<Settings, SettingFault> {
        Settings::read(|name| {
            let found = set.iter().find(|(n, _)| *n == name);
            found.map(|(_, v)| (*v).to_owned())
        })
    }

    #[test]
    fn hpss_spellings_mean_the_same() {
        for (variable, value) in [
            ("CAIRN_PORT_RANGE", "7000-7009"),
            ("HPSS_PORT_RANGE", "7000-7009"),
            ("HPSS_PFTC_PORT_RANGE", "ncacn_ip_tcp[7000-7009]"),
            (
                "HPSS_PFTPC_PORT_RANGE",
                "ncadg_ip_udp[1-2]:ncacn_ip_tcp[7000-7009]",
            ),
        ] {
            let ports = read(&[(variable, value)]).unwrap().ports.unwrap();
            assert_eq!(ports.value.to_string(), "7000-7009", "{variable}");
            assert_eq!(ports.variable, variable);
        }
        for variable in HOST_VARIABLES {
            let hosts = read(&[(variable, "login1.example.org")]).unwrap().hosts;
            assert_eq!(hosts.unwrap().value[0].to_string(), "login1.example.org");
        }
    }

    #[test]
    fn cairns_own_variables_come_first_and_empty_ones_are_not_set() {
        let settings = read(&[
            ("HPSS_HOSTNAME", "b"),
            ("CAIRN_HOSTNAME", "2001:db8::1, 192.0.2.1"),
            ("CAIRN_PORT_RANGE", " "),
            ("HPSS_PORT_RANGE", "7100-7101"),
        ])
        .unwrap();
        let hosts = settings.hosts.unwrap();
        assert_eq!(hosts.variable, "CAIRN_HOSTNAME");
        assert_eq!(hosts.value.len(), 2);
        assert_eq!(settings.ports.unwrap().variable, "HPSS_PORT_RANGE");
        assert_eq!(read(&[]).unwrap(), Settings::default());
    }

    #[test]
    fn a_bad_variable_is_named_with_the_way_out() {
        let said = |set: &[(&str, &str)]| read(set).unwrap_err().to_string();
        let ports = said(&[
            ("CAIRN_PORT_RANGE", "seven"),
            ("HPSS_PORT_RANGE", "7000-7001"),
        ]);
        assert!(
            ports.contains("CAIRN_PORT_RANGE: `seven` is no port range"),
            "{ports}"
        );
        assert!(ports.contains("7010-7019:7000-7009"), "{ports}");
        let dce = said(&[("HPSS_PFTC_PORT_RANGE", "ncacn_ip_tcp[7000-7009")]);
        assert!(dce.contains("write `ncacn_ip_tcp[7000-7009]`"), "{dce}");
        let host = said(&[("CAIRN_HOSTNAME", "good,b ad")]);
        assert!(host.contains("CAIRN_HOSTNAME: `b ad` is no host"), "{host}");
    }
}
