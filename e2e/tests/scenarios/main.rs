//! Every promise, a file each. One program, because most of a scenario's time is spent waiting, and so that several run at the
//! same time: each test has a cluster and registries of its own.
#![cfg(test)]

mod api_server_is_away;
mod argocd_lua;
mod arrives_bit_identical;
mod catalogs_are_served;
mod chart;
mod charts_are_mirrored;
mod check_command;
mod cluster_without_openshift;
mod command_line;
mod crd_comes_later;
mod documented;
mod drains_are_held_back;
mod installed_on_a_node;
mod installed_with_helm;
mod killed_in_mid_copy;
mod kustomize;
mod leader_is_killed;
mod least_privilege;
mod limits_of_objects;
mod mirrors_additional_images;
mod namespace_not_allowed;
mod nodes_pull_through_the_mirror;
mod nothing_secret_is_told;
mod object_deleted_in_mid_copy;
mod on_a_node;
mod one_missing_image_does_not_stop_the_others;
mod operator_image;
mod outage_leaves_rules_alone;
mod parts;
mod policy_conflict_is_found_before_writing;
mod recovers_without_a_restart;
mod releases_are_mirrored;
mod releases_in_the_cluster;
mod request_counts;
mod second_sync_writes_nothing;
mod session_in_the_readme;
mod spec_changed_in_mid_copy;
mod status_command;
mod stops_gracefully;
mod suspend_plan_and_interval;
mod two_objects_one_target;
mod validation_rules;
