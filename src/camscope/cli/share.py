"""camscope share: write a study's results without the identity of patients."""

from __future__ import annotations

from camscope.cli.options import Out, StudyFileOption, StudyFolder, progress, steps


def share(folder: StudyFolder, out: Out, study: StudyFileOption = None) -> None:
    """Write the results of a study without names of patients, images and files, to give to others.

    DIR is not changed. The new folder has the report, the rows for a spreadsheet and, after an audit, the effects.
    Patients become P1, P2 ...; groups and strata that may tell who has them become value 1, value 2 ... Text that is
    burned into an image stays visible: look at the thumbnails before you share them.

    Example: camscope share results --out to_share
    """
    from camscope.report.share import share as write
    from camscope.study.study import Study

    with progress() as bar:
        paths = write(folder, out, study=None if study is None else Study.read(study), progress=steps(bar))
    print("\n".join(map(str, paths)))
