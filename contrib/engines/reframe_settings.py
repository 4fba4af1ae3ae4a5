"""Settings of ReFrame with a container platform that hands the image to srun: `container_platform = "Bollard"`."""

from reframe.core import containers


class Bollard(containers.ContainerPlatform):
    """Slurm's `--container`: one container for all tasks of a node."""

    def emit_prepare_commands(self, stagedir):
        """Return no commands: nothing is to be done before."""
        return []

    def launch_command(self, stagedir):
        """Return what follows `srun`: options, then the command."""
        super().launch_command(stagedir)
        mounts = [*self.mount_points, *([(stagedir, self.mount_stagedir)] if self.mount_stagedir else [])]
        words = [f"--container={self.image}", *self.options]
        if mounts:
            words.append("--container-mounts=" + ",".join(f"{host}:{inside}" for host, inside in mounts))
        if self.workdir:
            words.append(f"--container-workdir={self.workdir}")
        return " ".join([*words, self.command or "/.singularity.d/runscript"])


containers.Bollard = Bollard  # ReFrame looks platforms up there

site_configuration = {
    "systems": [
        {
            "name": "cluster",
            "hostnames": [".*"],
            "modules_system": "nomod",
            "partitions": [
                {
                    "name": "main",
                    "scheduler": "slurm",
                    "launcher": "srun",
                    "environs": ["builtin"],
                    "container_platforms": [{"type": "Bollard"}],
                }
            ],
        }
    ],
    "environments": [{"name": "builtin"}],
}
