// Package api holds what other programs read of kairos-apply: the objects that it prints with -o json,
// the progress that it reports meanwhile, and its exit codes; and [Inspection], what `kairos inspect -o json`
// prints. It is the one place that says what they mean. It imports the standard library only, so that a reader
// links nothing of a node.
//
// With -o json a command prints one object on its standard output when it has ended, and lines on
// its standard error while it is at work: each line is an [Event].
//
//	command                          object
//	status                           [Status]
//	upgrade, rollback, reset, wait   [Result]
//	upgrade --check                  [UpgradeCheck]
//	install                          [InstallResult]
//	gc                               [GCResult]
//	bless                            [Assessment]
//	verify                           [Verification]
//
// A command that fails prints no object, but for bless, verify and upgrade --check, whose objects say what is wrong;
// its last line is an Event of step [StepError], and its exit code is an [ExitCode].
//
// New fields may come at any time: a reader ignores those that it does not know. A field never
// changes its meaning, unless [Status.Schema] grows.
package api
