# Lists all of the tree in the current folder, one line for each file, sorted: its kind, mode, owner,
# size, links, time, target, content and extended attributes.
export LC_ALL=C
{
	# Folders have no size or link count that means something; the root's time is the mount's.
	find . -mindepth 1 -type d -printf 'stat %p d %m %U %G %Ts\n'
	find . -mindepth 1 -type l -printf 'stat %p l %U %G %Ts -> %l\n'
	find . -mindepth 1 -not -type d -not -type l -not -type b -not -type c -printf 'stat %p %y %m %U %G %Ts %s bytes %n links\n'
	find . -mindepth 1 \( -type b -o -type c \) -exec stat -c 'stat %n %F %f %u %g %Y %Hr:%Lr' {} +
	find . -type f -print0 | xargs -0 sha256sum
	find . -mindepth 1 -print0 | xargs -0 getfattr -h -d -m - -e hex |
		awk '/^# file: /{f=$0; next} NF{print "xattr", f, $0}'
} 2>&1 | sort
